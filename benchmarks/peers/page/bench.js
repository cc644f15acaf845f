// The page of the runners that use Playwright by hand: sessions by name, tensors as base64.
import * as ort from "/ort/ort.all.bundle.min.mjs";

ort.env.wasm.numThreads = 1; // two workers share two cores
ort.env.wasm.wasmPaths = `${location.origin}/ort/`;
const ARRAYS = {
  float32: Float32Array, float64: Float64Array, int32: Int32Array, int64: BigInt64Array, uint8: Uint8Array,
};
const PLACED = /placed on \[(\w+?)(?:ExecutionProvider)?\]\.? Number of nodes: (\d+)/;
const NAMES = { Js: "webgpu", WebGpu: "webgpu", WebNN: "webnn", CPU: "wasm" };

// onnxruntime says only in its verbose log on which backend a model really is; Playwright must not get those lines.
let log = [];
for (const level of ["debug", "log", "info", "warn", "error"]) {
  const original = console[level].bind(console);
  console[level] = (...words) => (/:onnxruntime:/.test(words[0]) ? log.push(words[0]) : original(...words));
}

const sessions = new Map();

async function load(name, model, backend) {
  if (sessions.has(name)) return null;
  log = [];
  const provider = backend === "webnn" ? { name: "webnn", deviceType: "cpu" } : { name: backend };
  const session = await ort.InferenceSession.create(model, { executionProviders: [provider], logSeverityLevel: 0 });
  sessions.set(name, session);
  const placement = {};
  for (const line of log) {
    const match = PLACED.exec(line);
    if (match) placement[NAMES[match[1]] ?? match[1]] = Number(match[2]);
  }
  return placement;
}

function fromBase64(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes.buffer;
}

function toBase64(array) {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode.apply(null, bytes.subarray(i, i + 32768));
  return btoa(text);
}

async function run(name, inputs) {
  const feeds = {};
  for (const [input, { type, dims, data }] of Object.entries(inputs))
    feeds[input] = new ort.Tensor(type, new ARRAYS[type](fromBase64(data)), dims);
  const started = performance.now();
  const results = await sessions.get(name).run(feeds);
  const ms = performance.now() - started;
  const outputs = {};
  for (const [output, tensor] of Object.entries(results))
    outputs[output] = { type: tensor.type, dims: tensor.dims, data: toBase64(await tensor.getData()) };
  return { ms, outputs };
}

window.bench = { load, run };
