// Warm latencies: for each model a chart with a row for each browser and backend, all on one logarithmic axis.
BP.charts.latency = (width) => {
  const rows = BP.data.latency.map((row) => ({
    ...row,
    words: `${row.model} in ${row.where}: median ${BP.milliseconds(row.box[2])}, middle half ${BP.milliseconds(row.box[1])} to ${BP.milliseconds(row.box[3])}, ${row.calls} calls`,
  }));
  const all = rows.flatMap((row) => [row.box[0], row.box[4], ...row.dots]).filter((value) => value > 0);
  const domain = [Math.min(...all) / 1.15, Math.max(...all) * 1.15];
  const models = [...new Set(rows.map((row) => row.model))];
  const holder = BP.element("div");
  const longest = Math.max(...rows.map((row) => row.where.length));
  models.forEach((model, i) => {
    const mine = rows.filter((row) => row.model === model).sort((a, b) => a.box[2] - b.box[2]);
    const last = i === models.length - 1;
    const svg = Plot.plot({
      width,
      height: 24 * mine.length + (last ? 34 : 12),
      marginTop: 4,
      marginBottom: last ? 28 : 6,
      marginLeft: Math.min(width < 600 ? 140 : 200, 20 + 6.6 * longest),
      marginRight: 16,
      x: { type: "log", domain, label: null, tickFormat: BP.milliseconds, ticks: width < 600 ? 3 : 6, axis: last ? "bottom" : null },
      y: { domain: mine.map((row) => row.where), label: null, tickSize: 0, padding: 0.25 },
      color: { type: "identity" },
      marks: [
        Plot.gridX({ ticks: width < 600 ? 3 : 6, strokeOpacity: 0.12 }),
        Plot.ruleY(mine, { y: "where", x1: (d) => d.box[0], x2: (d) => d.box[4], stroke: "var(--bp-ink)" }),
        Plot.barX(mine, { y: "where", x1: (d) => d.box[1], x2: (d) => d.box[3], fill: "var(--bp-run)", fillOpacity: 0.35, stroke: "var(--bp-run)" }),
        Plot.tickX(mine, { y: "where", x: (d) => d.box[2], stroke: "var(--bp-ink)", strokeWidth: 2.5 }),
        Plot.dot(mine.flatMap((row) => row.dots.map((value) => ({ where: row.where, value }))), {
          y: "where", x: "value", r: 2, fill: "var(--bp-ink)", fillOpacity: 0.3,
        }),
        // what is pointed at and focused: the whole row
        Plot.barX(mine, { y: "where", x1: domain[0], x2: domain[1], fill: "var(--bp-ink)", fillOpacity: 0, insetTop: -2, insetBottom: -2, className: "bp-rows" }),
      ],
    });
    BP.interact(svg, ".bp-rows rect", mine);
    holder.append(BP.element("h4", {}, model), svg);
  });
  return holder;
};
