// The model page: dials the node, takes commands one at a time, and tells what happens here.
import { Assembly, decode, messages } from "./frames.js";
import { captureConsole, show } from "./journal.js";
import { Models } from "./models.js";
import { probe } from "./probe.js";

const params = new URLSearchParams(location.search);
const address = `${location.origin.replace("http", "ws")}${params.get("base")}ws?page=${params.get("page")}`;
let socket;

const send = (to, header, tensors = []) => { for (const message of messages(header, tensors)) to.send(message); };
const KEPT_EVENTS = 100; // what is said while there is no connection; a page that logs for hours says no more than that at once
const unsent = [];
const tell = (event) => {
  if (socket?.readyState === WebSocket.OPEN) send(socket, { event });
  else if (unsent.push(event) > KEPT_EVENTS) unsent.shift();
};
captureConsole(tell);
const models = new Models(params.get("ort"), tell);
// The node asks for this first, which hears of what comes of it; it takes a second, and nothing of it needs the connection.
if (params.has("bundle")) models.configure(Object.fromEntries(params)).catch(() => {});
window.browserpool = { models, get socket() { return socket; } }; // for a developer's console and for tests that break things on purpose

// Commands that touch onnxruntime never overlap: two webgpu runs in one page end in a time-out or in memory faults.
let queue = Promise.resolve();
let waiting = 0;
const SERIAL = {
  configure: (a) => models.configure(a),
  probe: (a) => probe(models, a),
  create: (a, tensors) => models.create(a, tensors),
  run: (a, tensors) => models.run(a, tensors),
  benchmark: (a, tensors) => models.benchmark(a, tensors),
  release: (a) => models.release(a),
  state_set: (a, tensors) => models.states.set(models.ort, a, tensors),
  state_get: (a) => models.states.get(a),
  state_drop: (a) => models.states.drop(a),
  gpu_ping: () => models.gpuPing(),
};
const AT_ONCE = {
  ping: () => ({ values: { sessions: models.sessions.size, heap: performance.memory?.usedJSHeapSize ?? 0 } }),
  echo: (a, tensors) => ({ values: {}, tensors: Object.entries(tensors) }),
};

/** Answers go where the command came from: on a later connection nobody waits for them any more. */
async function answer(to, id, handler, args, tensors) {
  try {
    const { values = {}, tensors: outputs = [] } = (await handler(args, tensors)) ?? {};
    send(to, { id, ok: true, values }, outputs);
  } catch (error) {
    const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    show("last error", text);
    send(to, { id, ok: false, error: text, stack: String(error?.stack ?? "").slice(0, 4000) });
  }
}

// A large reply leaves in pieces that need this thread: were the next command to compute at once, the reply would wait for it.
const SENT_MS = 50;
async function sent() {
  const until = performance.now() + SENT_MS;
  do await new Promise((go) => { turn.port1.onmessage = go; turn.port2.postMessage(0); });
  while (socket.bufferedAmount && performance.now() < until);
}
const turn = new MessageChannel(); // a turn of the event loop; setTimeout would take 4 ms

function receive(from, assembly, data) {
  const whole = assembly.take(data);
  if (!whole) return;
  const { header, tensors } = decode(whole);
  const { id, op, args } = header;
  if (op in SERIAL) {
    waiting += 1;
    queue = queue.then(async () => {
      waiting -= 1;
      await answer(from, id, SERIAL[op], args, tensors);
      if (waiting) await sent();
    });
  }
  else if (op in AT_ONCE) answer(from, id, AT_ONCE[op], args, tensors);
  else answer(from, id, () => { throw new Error(`unknown command ${op}`); }, args, tensors);
}

// A cut connection is dialled again: the page is sound, and its sessions are warm. The node waits for that as long as its
// EXPLANATION_SECONDS.
const REDIAL_MS = [0, 50, 200, 500, 1000];
const ENDED_BY_THE_NODE = [1000, 1001];
function dial(attempt) {
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  const own = socket, assembly = new Assembly();
  let open = false;
  own.onmessage = ({ data }) => receive(own, assembly, data);
  own.onopen = () => {
    open = true;
    show("browser", navigator.userAgent);
    tell({ kind: "hello", agent: navigator.userAgent, isolated: crossOriginIsolated, secure: isSecureContext });
    unsent.splice(0).forEach(tell);
  };
  own.onclose = ({ code }) => {
    show("connection", `closed (${code})`);
    const next = open ? 0 : attempt + 1;
    if (ENDED_BY_THE_NODE.includes(code) || next >= REDIAL_MS.length) return;
    setTimeout(() => dial(next), REDIAL_MS[next]);
  };
}
dial(0);
