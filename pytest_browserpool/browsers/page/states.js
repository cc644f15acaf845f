// Tensors that stay in this page between runs: recurrent states, KV caches. A state has slots, all of them at one step.

export class States {
  constructor() {
    this.all = new Map();
  }

  /** Puts `tensors` (slot → {type, dims, data}) in place of whatever stood under that name. */
  set(ort, { state, step }, tensors) {
    this.drop({ state });
    const slots = new Map();
    for (const [slot, { type, dims, data }] of Object.entries(tensors)) slots.set(slot, new ort.Tensor(type, data, dims));
    this.all.set(state, { step, slots });
    return { values: { states: this.all.size } };
  }

  find(name) {
    const found = this.all.get(name);
    if (!found) throw new Error(`no state ${name} in this page`);
    return found;
  }

  /** The tensors for a run's inputs (`feed`: input → slot); refused where the state stands at another step. */
  feeds({ name, step, feed }) {
    const found = this.find(name);
    if (found.step !== step) throw new Error(`state ${name} stands at step ${found.step}, and the run is for step ${step}`);
    const feeds = {};
    for (const [input, slot] of Object.entries(feed)) {
      if (!found.slots.has(slot)) throw new Error(`state ${name} has no slot ${slot} for input ${input}`);
      feeds[input] = found.slots.get(slot);
    }
    return feeds;
  }

  /** Takes a finished run's outputs (`keep`: output → slot) in, all or none of them, and goes on to step `next`. */
  keep({ name, next, keep }, results) {
    const found = this.find(name);
    const taken = Object.entries(keep).map(([output, slot]) => [output, slot, results[output]]);
    for (const [output, , tensor] of taken) {
      if (!tensor || !("dims" in tensor)) throw new Error(`output ${output}, kept as state ${name}, is no tensor`);
    }
    for (const [, slot, tensor] of taken) {
      release(found.slots.get(slot), tensor);
      found.slots.set(slot, tensor);
    }
    found.step = next;
  }

  /** Everything that the state holds, for a checkpoint. */
  async get({ state }) {
    const { step, slots } = this.find(state);
    const tensors = [];
    for (const [slot, tensor] of slots) {
      const data = tensor.location === "cpu" ? tensor.data : await tensor.getData();
      tensors.push([slot, { type: tensor.type, dims: tensor.dims, data }]);
    }
    return { values: { step }, tensors };
  }

  drop({ state }) {
    for (const tensor of this.all.get(state)?.slots.values() ?? []) release(tensor);
    this.all.delete(state);
    return { values: { states: this.all.size } };
  }
}

/** GPU buffers are not collected; `heir` may lie in the same one. */
function release(tensor, heir) {
  if (tensor?.location === "gpu-buffer" && tensor.gpuBuffer !== heir?.gpuBuffer) tensor.dispose();
}
