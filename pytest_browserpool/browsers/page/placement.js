// Reads onnxruntime's log of a session's creation: how many nodes each execution provider really got.

const PLACED = /placed on \[(\w+?)(?:ExecutionProvider)?\]\.? Number of nodes: (\d+)/;
const WEBNN = /number of partitions supported by WebNN: (\d+) number of nodes in the graph: (\d+) number of nodes supported by WebNN: (\d+)/;
const LACKS = /kernel not found in registries for Op type: (\S+)/;
const NAMES = { Js: "webgpu", WebGpu: "webgpu", WebNN: "webnn", CPU: "wasm" };

/** {placement: {provider: nodes}, partitions, missing: [operator]}; WebNN fuses, so its nodes are counted before fusion. */
export function placementFrom(lines) {
  const placement = {};
  const missing = new Set();
  let webnn = null;
  for (const line of lines) {
    let match;
    if ((match = PLACED.exec(line))) {
      const name = NAMES[match[1]] ?? match[1];
      placement[name] = (placement[name] ?? 0) + Number(match[2]);
    } else if ((match = WEBNN.exec(line))) {
      if (webnn === null || Number(match[2]) >= webnn.graph) webnn = { partitions: Number(match[1]), graph: Number(match[2]), taken: Number(match[3]) };
    } else if ((match = LACKS.exec(line))) {
      missing.add(match[1]);
    }
  }
  if (webnn !== null && "webnn" in placement) placement.webnn = Math.max(webnn.taken, placement.webnn);
  return { placement, partitions: webnn?.partitions ?? null, missing: [...missing] };
}
