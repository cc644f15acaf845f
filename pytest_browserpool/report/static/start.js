// Draws every chart, and again when its width changes.
BP.draw = (holder) => {
  const [kind, ...rest] = holder.dataset.chart.split("-");
  const width = Math.max(300, Math.floor(holder.clientWidth));
  if (holder.bpWidth === width) return;
  holder.bpWidth = width;
  holder.replaceChildren(BP.charts[kind](width, rest.join("-"), holder));
  BP.bringOut(holder);
};

BP.start = () => {
  BP.startTables();
  const holders = [...document.querySelectorAll(".bp-plot")];
  if (typeof Plot === "undefined") {
    for (const holder of holders) holder.hidden = true;
    document.querySelectorAll(".bp-as-table").forEach((table) => (table.open = true));
    return;
  }
  // drawn in a frame of its own: a chart that changes its height within the observer's turn is an error to browsers
  const watch = new ResizeObserver((entries) =>
    requestAnimationFrame(() => entries.forEach((entry) => BP.draw(entry.target))),
  );
  for (const holder of holders) {
    BP.draw(holder);
    watch.observe(holder);
  }
};

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", BP.start);
else BP.start();
