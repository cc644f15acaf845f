// Tables: sorted by a button in each head, and the tests that are chosen or searched for.
BP.sortable = (table) => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = BP.element("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      BP.sort(table, column, down ? -1 : 1);
    });
  });
};

// What a cell is compared by: its number, else its text; what is empty comes last.
BP.sortKey = (cell) => {
  const text = cell.dataset.v ?? cell.textContent.trim();
  if (text === "" || text === "–") return null;
  const number = Number(text);
  return Number.isNaN(number) ? text : number;
};

BP.compare = (a, b, direction) => {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return direction * (a - b);
  return direction * String(a).localeCompare(String(b), undefined, { numeric: true });
};

BP.sort = (table, column, direction) => {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [BP.sortKey(row.cells[column]), row]);
  rows.sort(([a], [b]) => BP.compare(a, b, direction));
  body.append(...rows.map(([, row]) => row));
};

// -- which rows are shown -------------------------------------------------------------------------------------

BP.ownRows = () => {
  const table = document.getElementById("bp-tests");
  if (!table) return;
  const wanted = (document.getElementById("bp-search").value || "").toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of table.tBodies[0].rows) {
    const text = wanted.length ? row.textContent.toLowerCase() : "";
    const fits = !BP.chosen || BP.chosen.indexes.has(Number(row.dataset.test));
    row.hidden = !(fits && wanted.every((word) => text.includes(word)));
    shown += !row.hidden;
  }
  const all = table.tBodies[0].rows.length;
  document.getElementById("bp-found").textContent = shown === all ? `${all} tests` : `${shown} of ${all} tests`;
};

// pytest-html draws its table anew whenever it sorts or filters: its rows are found by their text.
BP.theirRows = () => {
  const table = document.getElementById("results-table");
  if (!table) return;
  const oneLine = (text) => text.split(/\r?\n|\r/).join(" ");
  const names = BP.chosen && new Set([...BP.chosen.indexes].map((i) => oneLine(BP.data.tests[i][0])));
  for (const body of table.querySelectorAll("tbody.results-table-row")) {
    const name = body.querySelector(".col-testId")?.textContent ?? "";
    const fits = !names || names.has(name) || names.has(name.replace(/::(setup|teardown)$/, ""));
    body.classList.toggle("bp-left-out", !fits);
  }
};

// The bar at the foot of the window that says what is chosen and takes it back.
BP.chosenBar = () => {
  const words = BP.element("span");
  const there = BP.element("button", { type: "button" }, "Show them");
  const clear = BP.element("button", { type: "button" }, "All tests again");
  const bar = BP.element("div", { class: "bp bp-chosen", role: "status" }, words, there, clear);
  bar.hidden = true;
  document.body.append(bar);
  clear.addEventListener("click", () => BP.choose(null));
  there.addEventListener("click", () =>
    (document.getElementById("bp-tests") ?? document.getElementById("results-table")).scrollIntoView({ block: "start" }),
  );
  BP.watchers.push(() => {
    bar.hidden = !BP.chosen;
    if (BP.chosen) words.textContent = `${BP.chosen.indexes.size} of ${BP.data.tests.length} tests: ${BP.chosen.words}`;
  });
};

BP.startTables = () => {
  document.querySelectorAll("table.bp-sort").forEach(BP.sortable);
  document.getElementById("bp-search")?.addEventListener("input", BP.ownRows);
  BP.watchers.push(BP.ownRows, BP.theirRows);
  BP.chosenBar();
  const theirs = document.getElementById("results-table");
  if (theirs) {
    new MutationObserver(BP.theirRows).observe(theirs.parentNode, { childList: true });
    for (const head of theirs.querySelectorAll("th.sortable")) {
      head.tabIndex = 0; // theirs can only be clicked
      head.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          head.click();
          head.focus();
        }
      });
    }
  }
  BP.ownRows();
};
