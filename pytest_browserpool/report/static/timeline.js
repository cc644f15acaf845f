// The timeline: a row for each browser of each node, a bar for each thing that it did.
BP.kinds = ["idle", "setup", "run", "recovery"];

BP.spanItems = (lanes) =>
  lanes.flatMap((lane) => {
    const row = [lane.node, lane.browser].filter(Boolean).join(" · ");
    return lane.spans.map(([kind, start, end, tests, failed, words]) => {
      const test = tests.length === 1 && BP.test(tests[0]);
      const told = words || `${test.nodeid}: ${test.outcome} in ${BP.seconds(test.seconds)} on ${lane.node}, ${test.where}`;
      return { row, kind: BP.kinds[kind], start, end, tests, failed, words: told };
    });
  });

BP.charts = {};

BP.charts.timeline = (width, which) => {
  const lanes = BP.data.timelines[Number(which)];
  const items = BP.spanItems(lanes);
  const rows = lanes.map((lane) => [lane.node, lane.browser].filter(Boolean).join(" · "));
  const faults = lanes.flatMap((lane, i) => lane.faults.map(([at, words]) => ({ row: rows[i], at, words, tests: [] })));
  const busy = items.filter((item) => item.kind !== "idle");
  const narrow = width < 600;
  const bar = { y: "row", x1: "start", x2: "end", fill: (d) => `var(--bp-${d.kind})` };
  // a bar that is too short to be seen is drawn a pixel and a half wide
  const least = (1.5 * BP.data.seconds) / width;
  const svg = Plot.plot({
    width,
    height: 34 + 26 * rows.length,
    marginLeft: Math.min(narrow ? 130 : 220, 20 + 6.6 * Math.max(...rows.map((r) => r.length))),
    marginRight: 16,
    x: { domain: [0, BP.data.seconds || 1], label: null, tickFormat: BP.clock, ticks: narrow ? 4 : 10, grid: true },
    y: { domain: rows, label: null, tickSize: 0, padding: 0.2 },
    color: { type: "identity" },
    marks: [
      Plot.barX(items.filter((item) => item.kind === "idle"), { ...bar, insetTop: 7, insetBottom: 7 }),
      Plot.barX(busy, {
        ...bar,
        x2: (d) => Math.max(d.end, d.start + least),
        stroke: (d) => (d.failed ? "var(--bp-bad)" : "var(--bp-page)"),
        strokeWidth: (d) => (d.failed ? 2 : 0.5),
        className: "bp-spans",
      }),
      Plot.text(busy.filter((d) => d.failed), { y: "row", x: (d) => (d.start + d.end) / 2, text: () => "×", className: "bp-crosses" }),
      Plot.dot(faults, { y: "row", x: "at", symbol: "diamond", r: 5, fill: "var(--bp-bad)", stroke: "var(--bp-page)", dy: -9, title: "words" }),
    ],
  });
  BP.interact(svg, ".bp-spans rect", busy);
  return svg;
};
