"""WebGPU's promises hold under the switches that browsers are started with."""

from __future__ import annotations

import numpy as np
import onnx_models as make

GROUPS = 64
"""More than there are cores: one after the other they get the same memory."""

ZEROED = """(async () => {
  const device = await (await navigator.gpu.requestAdapter()).requestDevice();
  const code = `
    struct Tile { rows: array<array<vec4f, 16>, 16>, flag: u32 }
    var<workgroup> plain: array<f32, 2048>;
    var<workgroup> tile: Tile;
    var<workgroup> counter: atomic<u32>;
    @group(0) @binding(0) var<storage, read_write> found: array<u32>;
    @compute @workgroup_size(64)
    fn main(@builtin(local_invocation_index) i: u32, @builtin(workgroup_id) group: vec3u) {
      var left = atomicLoad(&counter) + tile.flag;
      for (var k = i; k < 2048u; k += 64u) { left += u32(plain[k] != 0.0); }
      for (var k = i; k < 256u; k += 64u) { left += u32(any(tile.rows[k / 16u][k % 16u] != vec4f(0.0))); }
      found[group.x * 64u + i] = 1000u + left;
      workgroupBarrier();
      for (var k = i; k < 2048u; k += 64u) { plain[k] = 7.0; }
      for (var k = i; k < 256u; k += 64u) { tile.rows[k / 16u][k % 16u] = vec4f(7.0); }
      tile.flag = 7u;
      atomicStore(&counter, 7u);
    }`;
  const pipeline = device.createComputePipeline({layout: "auto", compute: {module: device.createShaderModule({code})}});
  const size = GROUPS * 64 * 4;
  const found = device.createBuffer({size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC});
  const read = device.createBuffer({size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST});
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  const entries = [{binding: 0, resource: {buffer: found}}];
  pass.setBindGroup(0, device.createBindGroup({layout: pipeline.getBindGroupLayout(0), entries}));
  pass.dispatchWorkgroups(GROUPS);
  pass.end();
  encoder.copyBufferToBuffer(found, 0, read, 0, size);
  device.queue.submit([encoder.finish()]);
  await read.mapAsync(GPUMapMode.READ);
  const values = Array.from(new Uint32Array(read.getMappedRange()));
  device.destroy();
  return values;
})()""".replace("GROUPS", str(GROUPS))


def test_workgroup_memory_begins_zeroed(shared_bench, kind) -> None:
    """Each workgroup looks at its memory and leaves other values there. Whoever zeroes it between them, Vulkan or the
    shader, is the browser's business: see ``flags.SOFTWARE_FLAGS``."""
    shared_bench.node.begin_test("zeroed")
    model = shared_bench.load(make.affine(3.0), kind)
    assert model({"x": np.ones((4, 4), np.float32)})["y"].item(0) == 4.0
    values = shared_bench.evaluate(model, ZEROED)
    shared_bench.node.end_test()
    assert values == [1000] * (GROUPS * 64)
