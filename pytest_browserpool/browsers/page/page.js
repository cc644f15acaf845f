// The model page: dials the node, takes commands one at a time, and tells what happens here.
import { Assembly, decode, messages } from "./frames.js";
import { captureConsole, show } from "./journal.js";
import { Models } from "./models.js";
import { probe } from "./probe.js";

const params = new URLSearchParams(location.search);
const socket = new WebSocket(`${location.origin.replace("http", "ws")}${params.get("base")}ws?page=${params.get("page")}`);
socket.binaryType = "arraybuffer";

const send = (header, tensors = []) => { for (const message of messages(header, tensors)) socket.send(message); };
const tell = (event) => { if (socket.readyState === WebSocket.OPEN) send({ event }); };
captureConsole(tell);
const models = new Models(params.get("base"), tell);
window.browserpool = { models, socket }; // for a developer's console and for tests that break things on purpose

// Commands that touch onnxruntime never overlap: two webgpu runs in one page end in a time-out or in memory faults.
let queue = Promise.resolve();
let waiting = 0;
const SERIAL = {
  configure: (a) => models.configure(a),
  probe: (a) => probe(models, a),
  create: (a) => models.create(a),
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

async function answer(id, handler, args, tensors) {
  try {
    const { values = {}, tensors: outputs = [] } = (await handler(args, tensors)) ?? {};
    send({ id, ok: true, values }, outputs);
  } catch (error) {
    const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    show("last error", text);
    send({ id, ok: false, error: text, stack: String(error?.stack ?? "").slice(0, 4000) });
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

const assembly = new Assembly();
socket.onmessage = ({ data }) => {
  const whole = assembly.take(data);
  if (!whole) return;
  const { header, tensors } = decode(whole);
  const { id, op, args } = header;
  if (op in SERIAL) {
    waiting += 1;
    queue = queue.then(async () => {
      waiting -= 1;
      await answer(id, SERIAL[op], args, tensors);
      if (waiting) await sent();
    });
  }
  else if (op in AT_ONCE) answer(id, AT_ONCE[op], args, tensors);
  else answer(id, () => { throw new Error(`unknown command ${op}`); }, args, tensors);
};
socket.onopen = () => {
  show("browser", navigator.userAgent);
  tell({ kind: "hello", agent: navigator.userAgent, isolated: crossOriginIsolated, secure: isSecureContext });
};
socket.onclose = () => show("connection", "closed by the node");
