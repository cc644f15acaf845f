// Marks of a chart: told on hover and focus, walked along with the arrow keys, chosen with a click or Enter.
BP.tip = (() => {
  const box = BP.element("div", { class: "bp bp-tip", "aria-hidden": "true" });
  box.hidden = true;
  document.body.append(box);
  return {
    show(words, mark) {
      box.textContent = words;
      box.hidden = false;
      const at = mark.getBoundingClientRect();
      const own = box.getBoundingClientRect();
      const left = Math.max(4, Math.min(at.left + at.width / 2 - own.width / 2, innerWidth - own.width - 4));
      const above = at.top - own.height - 8;
      box.style.left = `${left + scrollX}px`;
      box.style.top = `${(above > 4 ? above : at.bottom + 8) + scrollY}px`;
    },
    hide() {
      box.hidden = true;
    },
  };
})();

// `items[i]` is {words, tests} of the i-th datum of the marks that `selector` finds in `svg`.
BP.interact = (svg, selector, items) => {
  const marks = [...svg.querySelectorAll(selector)];
  const item = (mark) => items[mark.__data__];
  const markOf = (event) => event.target.closest(selector);
  for (const mark of marks) {
    mark.setAttribute("aria-label", item(mark).words);
    mark.setAttribute("role", item(mark).tests.length ? "button" : "img");
    mark.setAttribute("tabindex", "-1");
  }
  if (!marks.length) return;
  marks[0].setAttribute("tabindex", "0");
  const go = (from, to) => {
    if (!to) return;
    from.setAttribute("tabindex", "-1");
    to.setAttribute("tabindex", "0");
    to.focus();
  };
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  svg.addEventListener("keydown", (event) => {
    const mark = markOf(event);
    if (!mark) return;
    const at = marks.indexOf(mark);
    if (event.key in steps) go(mark, marks[at + steps[event.key]]);
    else if (event.key === "Home") go(mark, marks[0]);
    else if (event.key === "End") go(mark, marks.at(-1));
    else if (event.key === "Escape") BP.choose(null);
    else if (event.key === "Enter" || event.key === " ") BP.pick(item(mark));
    else return;
    event.preventDefault();
  });
  svg.addEventListener("click", (event) => {
    const mark = markOf(event);
    if (mark) BP.pick(item(mark));
  });
  for (const event of ["pointerover", "focusin"])
    svg.addEventListener(event, (e) => markOf(e) && BP.tip.show(item(markOf(e)).words, markOf(e)));
  for (const event of ["pointerout", "focusout"]) svg.addEventListener(event, BP.tip.hide);
  const dim = () => {
    for (const mark of marks) {
      const off = BP.chosen && !item(mark).tests.some((index) => BP.chosen.indexes.has(index));
      mark.classList.toggle("bp-dim", Boolean(off));
    }
  };
  svg.bpDim = dim;
  dim();
};

BP.pick = ({ tests, words }) => tests.length && BP.choose(tests, words);
BP.watchers.push(() => document.querySelectorAll(".bp-plot svg").forEach((svg) => svg.bpDim?.()));
