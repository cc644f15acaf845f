// What this browser really gives, found by doing it: a backend runs the small anchor model and its answer is compared.

async function adapterInfo() {
  if (!navigator.gpu) return { error: "navigator.gpu is missing" };
  const adapter = await navigator.gpu.requestAdapter();
  if (!adapter) return { error: "requestAdapter() gave no adapter" };
  const info = adapter.info ?? {};
  return {
    adapter: {
      vendor: info.vendor ?? "", architecture: info.architecture ?? "", device: info.device ?? "",
      description: info.description ?? "", fallback: Boolean(info.isFallbackAdapter ?? adapter.isFallbackAdapter),
    },
    features: [...adapter.features].sort(),
  };
}

async function webnnContext(deviceType) {
  if (!navigator.ml) return "navigator.ml is missing";
  try {
    const context = await navigator.ml.createContext({ deviceType });
    context.destroy?.();
    return null;
  } catch (error) {
    return `createContext(${deviceType}): ${error.name}: ${error.message}`;
  }
}

async function tryModel(models, backend, anchor) {
  const session = `probe-${backend}`;
  try {
    const { values } = await models.create({ ...anchor, session, backend });
    const input = { type: "float32", dims: [2, 2], data: Float32Array.of(1, 2, 3, 4) };
    const { tensors } = await models.run({ session }, { x: input });
    const got = Array.from(tensors[0][1].data);
    const right = [1, 2, 3, 4].every((v, i) => Math.abs(got[i] - (2 * v + 1)) < 1e-5);
    const key = backend.startsWith("webnn") ? "webnn" : backend;
    if (!right) return { available: false, detail: `computed ${got} instead of 3,5,7,9` };
    if (!values.placement[key]) return { available: false, detail: `onnxruntime ran it on ${Object.keys(values.placement)} instead` };
    return { available: true, detail: "" };
  } catch (error) {
    return { available: false, detail: String(error?.message ?? error) };
  } finally {
    await models.release({ session });
  }
}

export async function probe(models, { anchor, backend }) {
  let found;
  if (backend === "webgpu") {
    const info = await adapterInfo();
    found = info.error ? { available: false, detail: info.error } : { ...(await tryModel(models, backend, anchor)), ...info };
  } else if (backend.startsWith("webnn")) {
    const refusal = await webnnContext({ webnn: "cpu", "webnn-gpu": "gpu", "webnn-npu": "npu" }[backend]);
    found = refusal ? { available: false, detail: refusal } : await tryModel(models, backend, anchor);
  } else {
    found = await tryModel(models, backend, anchor);
  }
  return { values: { backend: { name: backend, ...found }, isolated: crossOriginIsolated } };
}
