// Utilization as it was foreseen for each minute, and as it came.
BP.charts.forecast = (width) => {
  const points = BP.data.forecasts.flatMap(({ browser, points: all }) =>
    all.flatMap(([at, foreseen, came]) => [
      { browser, at, value: 100 * foreseen, what: "foreseen" },
      { browser, at, value: 100 * came, what: "came" },
    ]),
  );
  const browsers = BP.data.forecasts.map((each) => each.browser);
  const svg = Plot.plot({
    width,
    height: 110 * browsers.length + 40,
    marginLeft: 44,
    marginRight: 110,
    x: { domain: [0, BP.data.seconds || 1], label: null, tickFormat: BP.clock, ticks: width < 500 ? 3 : 7 },
    y: { domain: [0, 100], label: "%", grid: true, ticks: 3 },
    fy: { domain: browsers, label: null, padding: 0.2 },
    color: { type: "identity" },
    marks: [
      Plot.ruleY([0]),
      Plot.line(points, { x: "at", y: "value", fy: "browser", z: "what", stroke: (d) => (d.what === "came" ? "var(--bp-run)" : "var(--bp-c1)"), strokeWidth: 1.8, marker: "dot" }),
    ],
  });
  svg.setAttribute("aria-hidden", "true"); // the table below it has the numbers
  return svg;
};
