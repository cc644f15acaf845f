// Sessions of onnxruntime-web in this page: create, run, release, and what really ran where.
import { ortLog, show } from "./journal.js";
import { placementFrom } from "./placement.js";
import { States } from "./states.js";

const BUNDLES = { all: "ort.all.bundle.min.mjs", native: "ort.webgpu.bundle.min.mjs", wasm: "ort.wasm.bundle.min.mjs" };
const WEBNN_DEVICES = { webnn: "cpu", "webnn-gpu": "gpu", "webnn-npu": "npu" };

// onnxruntime's threads spin for a while after each run: on a small machine they take the core that the reply needs.
const QUIET_THREADS = { session: { intra_op: { allow_spinning: "0" } } };

async function fetchBytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`fetching ${url.split("/").pop()}: HTTP ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

export class Models {
  constructor(ort, tell) {
    this.runtime = ort;
    this.tell = tell;
    this.sessions = new Map();
    this.states = new States();
    this.ort = null;
    this.configured = null;
    this.watched = null;
    this.gpuErrors = []; // since the run before: what the GPU refused, which onnxruntime does not hear of
  }

  /** Loads the bundle (one per page: the builds do not share state) and sets its environment, the first time. */
  configure(asked) {
    return (this.configured ??= this.start(asked));
  }

  async start({ bundle, threads, anchor }) {
    const ort = await import(`${this.runtime}${BUNDLES[bundle]}`);
    ort.env.wasm.wasmPaths = `${location.origin}${this.runtime}`;
    ort.env.wasm.numThreads = crossOriginIsolated ? Number(threads) : 1;
    ort.env.wasm.proxy = false; // excludes GPU tensors
    ort.env.logLevel = "warning"; // the sessions log their placement themselves
    // the first session compiles the WebAssembly, seconds that belong to the page and not to a model
    const first = await ort.InferenceSession.create(await fetchBytes(anchor), { executionProviders: ["wasm"] });
    await first.release();
    this.ort = ort;
    show("runtime", `onnxruntime-web ${ort.env.versions.web} (${bundle})`);
    return { values: { version: ort.env.versions.web, threads: ort.env.wasm.numThreads } };
  }

  providers(backend) {
    if (backend in WEBNN_DEVICES) return [{ name: "webnn", deviceType: WEBNN_DEVICES[backend] }];
    return [{ name: backend }];
  }

  /** The model comes along as `tensors` (its file by "model", external data by its path), or is fetched. */
  async create({ session, backend, url, external, options }, tensors = {}) {
    const t0 = performance.now();
    const bytes = async (name, from) => tensors[name]?.data ?? fetchBytes(from);
    const model = await bytes("model", url);
    // External data is fetched here first: a 404 inside create() would block every later create in this page.
    const externalData = [];
    for (const [path, dataUrl] of external) externalData.push({ path, data: await bytes(`external ${path}`, dataUrl) });
    const t1 = performance.now();
    ortLog.lines = [];
    try {
      const made = await this.ort.InferenceSession.create(model, {
        extra: QUIET_THREADS,
        ...options,
        ...(externalData.length ? { externalData } : {}),
        executionProviders: this.providers(backend),
        logSeverityLevel: 0, // the placement is in the verbose log; run() does not log at this level
      });
      this.sessions.set(session, made);
      const lines = ortLog.lines;
      if (backend === "webgpu") await this.watchDevice();
      show("sessions", String(this.sessions.size));
      show("last model", `${session} on ${backend}`);
      return {
        values: {
          fetch_ms: t1 - t0, create_ms: performance.now() - t1, bytes: model.byteLength,
          inputs: [...made.inputNames], outputs: [...made.outputNames], ...placementFrom(lines),
        },
      };
    } finally {
      ortLog.lines = null;
    }
  }

  /** Tells the node when the GPU device of this page is lost; a lost device never comes back in its page. */
  async watchDevice() {
    const device = await this.ort.env.webgpu?.device;
    if (!device || device === this.watched) return;
    this.watched = device;
    device.lost.then(({ reason, message }) => this.tell({ kind: "device_lost", reason: String(reason), message }));
    device.addEventListener("uncapturederror", ({ error }) => {
      const text = `${error.constructor.name}: ${error.message}`;
      this.gpuErrors.push(text);
      this.tell({ kind: "gpu_error", text });
    });
  }

  /** A shader that did not compile leaves its output at zero, and onnxruntime calls that an answer. */
  computed() {
    const [first] = this.gpuErrors.splice(0);
    if (first) throw new Error(`uncaptured ${first}`);
  }

  session(id) {
    const found = this.sessions.get(id);
    if (!found) throw new Error(`no session ${id} in this page`);
    return found;
  }

  feeds(tensors) {
    const feeds = {};
    for (const [name, { type, dims, data }] of Object.entries(tensors)) feeds[name] = new this.ort.Tensor(type, data, dims);
    return feeds;
  }

  /** One inference. With `state`, some inputs come from a state of this page and some outputs stay in it. */
  async run({ session, state }, tensors) {
    const found = this.session(session);
    const feeds = state ? { ...this.feeds(tensors), ...this.states.feeds(state) } : this.feeds(tensors);
    this.gpuErrors.length = 0; // what loads and other models met is not this run's
    const t0 = performance.now();
    const results = await found.run(feeds);
    const run_ms = performance.now() - t0;
    const kept = state?.keep ?? {};
    const outputs = [];
    for (const name of found.outputNames) {
      if (Object.hasOwn(kept, name)) continue; // not "in": every object has a constructor
      const tensor = results[name];
      if (!tensor) continue; // an optional output that the model left out
      if (!("dims" in tensor)) throw new Error(`output ${name} is not a tensor (a sequence or map), which cannot travel`);
      const data = tensor.location === "cpu" ? tensor.data : await tensor.getData();
      outputs.push([name, { type: tensor.type, dims: tensor.dims, data }]);
    }
    this.computed();
    if (state) this.states.keep(state, results); // last: a run that failed leaves the state as it was
    for (const [name, tensor] of Object.entries(results)) {
      if (!Object.hasOwn(kept, name) && tensor?.location === "gpu-buffer") tensor.dispose();
    }
    return { values: { run_ms }, tensors: outputs };
  }

  async benchmark({ session, runs }, tensors) {
    const found = this.session(session);
    const feeds = this.feeds(tensors);
    const times = [];
    this.gpuErrors.length = 0;
    for (let i = 0; i < runs; i++) {
      const t0 = performance.now();
      const results = await found.run(feeds);
      for (const tensor of Object.values(results)) {
        if (tensor.location !== "cpu") { await tensor.getData(); tensor.dispose(); }
      }
      times.push(performance.now() - t0);
    }
    this.computed();
    return { values: { times } };
  }

  async release({ session }) {
    const found = this.sessions.get(session);
    this.sessions.delete(session);
    await found?.release();
    show("sessions", String(this.sessions.size));
    return { values: { sessions: this.sessions.size } };
  }

  /** A heartbeat that includes the GPU: JavaScript lives on when the GPU process stands still. */
  async gpuPing() {
    if (this.watched) await this.watched.queue.onSubmittedWorkDone();
    return { values: { device: Boolean(this.watched) } };
  }
}
