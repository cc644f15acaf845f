// What the page says: console and errors go to the node, the latest state stands on the page (for screenshots).

const KEEP = 30;
const recent = [];

export function show(term, text) {
  const list = document.getElementById("status");
  let dd = [...list.querySelectorAll("dt")].find((dt) => dt.textContent === term)?.nextElementSibling;
  if (!dd) {
    const dt = document.createElement("dt");
    dt.textContent = term;
    dd = document.createElement("dd");
    list.append(dt, dd);
  }
  dd.textContent = text;
}

// onnxruntime logs through console.error: "2026-01-01 00:00:00.0 [V:onnxruntime:, file.cc:1 Function] text".
const ORT = /\[([VIWEF]):onnxruntime:[^\]]*\] ?(.*)/s;
const COLOUR = /\x1b\[[0-9;]*m/g;
const LEVELS = { W: "warning", E: "error", F: "error" };

/** Lines of onnxruntime's log are collected here while a session is being created. */
export const ortLog = { lines: null };

export function captureConsole(tell) {
  const say = (level, text) => {
    recent.push(`${level}: ${text}`);
    if (recent.length > KEEP) recent.shift();
    document.getElementById("log").textContent = recent.join("\n");
    tell({ kind: "console", level, text: text.slice(0, 4000), at: Date.now() / 1000 });
  };
  for (const level of ["debug", "log", "info", "warn", "error"]) {
    const original = console[level].bind(console);
    console[level] = (...args) => {
      const text = args.map((a) => (a instanceof Error ? a.stack ?? String(a) : typeof a === "object" ? JSON.stringify(a) : String(a))).join(" ");
      const ort = ORT.exec(text);
      if (ort) {
        ortLog.lines?.push(text);
        if (ort[1] in LEVELS) say(LEVELS[ort[1]], `onnxruntime: ${ort[2].replace(COLOUR, "")}`); // the rest is only for the placement
        return;
      }
      original(...args);
      say(level === "warn" ? "warning" : level, text);
    };
  }
  addEventListener("error", (e) => tell({ kind: "page_error", text: `${e.message} (${e.filename}:${e.lineno})` }));
  addEventListener("unhandledrejection", (e) => tell({ kind: "page_error", text: `unhandled rejection: ${e.reason?.stack ?? e.reason}` }));
}
