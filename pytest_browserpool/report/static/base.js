// What all parts of the page's script share: the data, elements, words, and which tests are chosen.
"use strict";
const BP = {
  data: JSON.parse(document.getElementById("bp-data").textContent),
  chosen: null,
  watchers: [],
};

BP.element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

BP.seconds = (value) => {
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  return whole < 3600
    ? `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`
    : `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
};

BP.milliseconds = (value) => (value >= 1000 ? `${(value / 1000).toPrecision(3)} s` : `${Number(value.toPrecision(3))} ms`);

// a time on an axis: 2.5 s, 1:30, 1:02:00
BP.clock = (value) => {
  if (BP.data.seconds < 120) return `${Number(value.toPrecision(4))} s`;
  const whole = Math.round(value);
  const two = (n) => String(n).padStart(2, "0");
  const rest = `${two(Math.floor((whole % 3600) / 60))}:${two(whole % 60)}`;
  return whole >= 3600 ? `${Math.floor(whole / 3600)}:${rest}` : rest;
};

BP.test = (index) => {
  const [nodeid, outcome, seconds, browser, backend] = BP.data.tests[index];
  return { nodeid, outcome, seconds, where: [browser, backend].filter(Boolean).join("/") || "no browser" };
};

// Choose tests by their indexes, or null for all; `words` say what was chosen.
BP.choose = (indexes, words) => {
  BP.chosen = indexes && { indexes: new Set(indexes), words };
  for (const watcher of BP.watchers) watcher();
};
