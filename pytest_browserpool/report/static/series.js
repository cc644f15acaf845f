// What was measured over time: a line for each node and browser, a legend that brings one of them out.
BP.colours = (i) => `var(--bp-c${i % 8})`;

BP.charts.panel = (width, key, holder) => {
  const panel = BP.data.panels.find((each) => each.key === key);
  if (panel.series.length >= BP.stripsFrom) return BP.strips(width, panel);
  const points = panel.series.flatMap((series, i) => series.points.map(([at, value]) => ({ at, value, i, name: series.name })));
  const top = Math.max(...points.map((point) => point.value), panel.unit === "%" ? 100 : 0);
  const told = (d) => `${d.name}\n${Number(d.value.toPrecision(3))} ${panel.unit} at ${BP.clock(d.at)}`;
  const svg = Plot.plot({
    width,
    height: 190,
    marginLeft: 44,
    marginRight: 14,
    x: { domain: [0, BP.data.seconds || 1], label: null, tickFormat: BP.clock, ticks: width < 500 ? 4 : 7 },
    y: { domain: [0, top || 1], label: panel.unit, grid: true, nice: panel.unit !== "%", ticks: 5 },
    color: { type: "identity" },
    marks: [
      Plot.ruleY([0]),
      Plot.lineY(points, {
        x: "at",
        y: "value",
        z: "i",
        stroke: (d) => BP.colours(d.i),
        strokeWidth: 1.6,
        strokeDasharray: null,
        curve: panel.step ? "step-after" : "linear",
        className: "bp-lines",
      }),
      // a line of one point is not seen
      Plot.dot(points.filter((d) => panel.series[d.i].points.length === 1), { x: "at", y: "value", r: 2.5, fill: (d) => BP.colours(d.i) }),
      Plot.tip(points, Plot.pointer({ x: "at", y: "value", title: told, maxRadius: 24 })),
    ],
  });
  svg.setAttribute("aria-hidden", "true"); // the table below it has the numbers
  holder.before(...(holder.previousElementSibling?.classList.contains("bp-legend") ? [] : [BP.panelLegend(panel, holder)]));
  return svg;
};

BP.panelLegend = (panel, holder) => {
  const legend = BP.element("div", { class: "bp-legend" });
  panel.series.forEach((series, i) => {
    const swatch = BP.element("i");
    swatch.style.background = BP.colours(i);
    const button = BP.element("button", { type: "button", "aria-pressed": "false" }, swatch, series.name);
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      for (const other of legend.children) other.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", String(on));
      holder.bpOnly = on ? i : null;
      BP.bringOut(holder);
      if (on && series.browser) BP.choose(BP.testsAt(series.node, series.browser), series.name);
      else BP.choose(null);
    });
    legend.append(button);
  });
  return legend;
};

BP.bringOut = (holder) => {
  const only = holder.bpOnly ?? null;
  holder.querySelectorAll(".bp-lines path").forEach((path, i) => path.classList.toggle("bp-dim", only !== null && only !== i));
};

BP.testsAt = (node, browser) => {
  const lane = BP.data.timelines[0].find((each) => each.node === node && each.browser === browser);
  return lane ? [...new Set(lane.spans.flatMap((span) => span[3]))] : [];
};

// Measured over expected seconds, both logarithmic: on the line the guess was right.
BP.charts.expected = (width) => {
  const items = BP.data.expected.map(([test, expected, measured]) => ({
    expected,
    measured,
    failed: ["failed", "error", "crashed"].includes(BP.test(test).outcome),
    tests: [test],
    words: `${BP.test(test).nodeid}: expected ${BP.seconds(expected)}, took ${BP.seconds(measured)}`,
  }));
  const all = items.flatMap((item) => [item.expected, item.measured]);
  const domain = [Math.min(...all) / 1.2, Math.max(...all) * 1.2];
  const axis = { type: "log", domain, grid: true, ticks: 5, tickFormat: (v) => BP.seconds(v) };
  const svg = Plot.plot({
    width: Math.min(width, 620),
    height: Math.min(width, 620) * 0.62,
    marginLeft: 62,
    marginBottom: 38,
    x: { ...axis, label: "expected →" },
    y: { ...axis, label: "↑ measured" },
    color: { type: "identity" },
    marks: [
      Plot.line([[domain[0], domain[0]], [domain[1], domain[1]]], { stroke: "var(--bp-soft)", strokeDasharray: "4 3" }),
      Plot.dot(items, {
        x: "expected",
        y: "measured",
        r: 3.6,
        symbol: (d) => (d.failed ? "times" : "circle"),
        stroke: (d) => (d.failed ? "var(--bp-bad)" : "var(--bp-run)"),
        fill: (d) => (d.failed ? "none" : "var(--bp-run)"),
        fillOpacity: 0.35,
        className: "bp-expected",
      }),
    ],
  });
  BP.interact(svg, ".bp-expected path, .bp-expected circle", items);
  return svg;
};

// Many series: a strip for each, the darker the higher. Lines of more than a few colours cannot be told apart.
BP.stripsFrom = 7;

BP.strips = (width, panel) => {
  const top = Math.max(...panel.series.flatMap((series) => series.points.map((point) => point[1])), panel.unit === "%" ? 100 : 0) || 1;
  const items = panel.series.flatMap((series) =>
    series.points.map(([at, value], i) => ({
      name: series.name,
      at,
      until: i + 1 < series.points.length ? series.points[i + 1][0] : Math.min(BP.data.seconds, at + 5),
      share: value / top,
      tests: series.browser ? BP.testsAt(series.node, series.browser) : [],
      words: `${series.name}: ${Number(value.toPrecision(3))} ${panel.unit} at ${BP.clock(at)}`,
    })),
  );
  const names = panel.series.map((series) => series.name);
  const svg = Plot.plot({
    width,
    height: 17 * names.length + 40,
    marginLeft: Math.min(width < 500 ? 130 : 170, 16 + 6.6 * Math.max(...names.map((name) => name.length))),
    marginRight: 14,
    x: { domain: [0, BP.data.seconds || 1], label: null, tickFormat: BP.clock, ticks: width < 500 ? 3 : 6 },
    y: { domain: names, label: null, tickSize: 0, padding: 0.15 },
    color: { type: "identity" },
    marks: [
      Plot.barX(names, { y: (d) => d, x1: 0, x2: BP.data.seconds, fill: "var(--bp-idle)", fillOpacity: 0.35 }),
      Plot.barX(items, { y: "name", x1: "at", x2: "until", fill: "var(--bp-run)", fillOpacity: "share", className: "bp-strips" }),
    ],
    opacity: { type: "identity" },
  });
  BP.interact(svg, ".bp-strips rect", items);
  return BP.element("div", {}, BP.element("small", {}, `full colour: ${Number(top.toPrecision(3))} ${panel.unit}`), svg);
};
