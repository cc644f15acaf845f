// Warm medians of two runs: from the hollow dot (before) to the full one (after), on a logarithmic axis.
BP.charts.pairs = (width) => {
  const pairs = BP.data.pairs.map((pair) => {
    const ratio = pair.after / pair.before;
    const told = `${BP.milliseconds(pair.before)} before, ${BP.milliseconds(pair.after)} after (× ${ratio.toPrecision(3)})`;
    return { ...pair, ratio, words: `${pair.name}: ${told}` };
  });
  if (!pairs.length) return BP.element("p", {}, "No model was called in both runs.");
  pairs.sort((a, b) => b.ratio - a.ratio);
  const all = pairs.flatMap((pair) => [pair.before, pair.after]);
  const colour = (d) => (d.ratio > 1 ? "var(--bp-setup)" : "var(--bp-run)");
  const domain = [Math.min(...all) / 1.2, Math.max(...all) * 1.2];
  const svg = Plot.plot({
    width,
    height: 24 * pairs.length + 46,
    marginLeft: Math.min(width < 600 ? 150 : 330, 20 + 6.6 * Math.max(...pairs.map((pair) => pair.name.length))),
    marginRight: 20,
    x: { type: "log", domain, label: null, grid: true, tickFormat: BP.milliseconds, ticks: width < 600 ? 3 : 6 },
    y: { domain: pairs.map((pair) => pair.name), label: null, tickSize: 0 },
    color: { type: "identity" },
    marks: [
      Plot.ruleY(pairs, { y: "name", x1: "before", x2: "after", stroke: colour, strokeWidth: 2.5 }),
      Plot.dot(pairs, { y: "name", x: "before", r: 4, fill: "var(--bp-page)", stroke: colour, strokeWidth: 1.5 }),
      Plot.dot(pairs, { y: "name", x: "after", r: 4.5, fill: colour }),
      Plot.barX(pairs, { y: "name", x1: domain[0], x2: domain[1], fill: "var(--bp-ink)", fillOpacity: 0, className: "bp-rows" }),
    ],
  });
  BP.interact(svg, ".bp-rows rect", pairs);
  return svg;
};
