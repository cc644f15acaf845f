// The same tests as the runners in Python have: the suite's inferences, each answer held against native onnxruntime's.
const { test: base, expect } = require("@playwright/test");
const { appendFileSync, readFileSync } = require("node:fs");

const DIRECTORY = process.env.PEERS_SUITE;
const suite = JSON.parse(readFileSync(`${DIRECTORY}/suite.json`, "utf8"));
const order = JSON.parse(process.env.PEERS_ORDER);
const ARRAYS = {
  float32: Float32Array, float64: Float64Array, int32: Int32Array, int64: BigInt64Array, uint8: Uint8Array,
};

function record(event, fields) {
  const line = { event, at: Date.now() / 1000, pid: process.pid, ...fields };
  appendFileSync(process.env.PEERS_RECORD, JSON.stringify(line) + "\n");
}

// the worker's own browser is launched by the first test that asks for it; the count is taken there
const test = base.extend({
  counted: [async ({ browser }, use, info) => {
    record("launch", { browser: info.project.name });
    await use(browser);
  }, { scope: "worker" }],
});

function numbers(type, buffer) {
  return new ARRAYS[type](buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength));
}

function near(name, found, wanted, { rtol, atol }) {
  for (let i = 0; i < wanted.length; i++) {
    const [a, b] = [Number(found[i]), Number(wanted[i])];
    if (!(Math.abs(a - b) <= atol + rtol * Math.abs(b))) throw new Error(`${name}[${i}] is ${a}, not ${b}`);
  }
}

test.beforeEach(({}, info) => record("begin", { test: info.title, browser: info.project.name }));
test.afterEach(({}, info) => record("end", { test: info.title }));

for (const id of order) {
  const one = suite.tests.find((t) => t.id === id);
  test(id, async ({ counted, page }) => {
    await page.goto("/page/index.html");
    await page.waitForFunction("window.bench !== undefined");
    let started = performance.now();
    const placement = await page.evaluate(([name, model, backend]) => window.bench.load(name, model, backend),
      [one.model, `/models/${one.model}`, one.backend]);
    record("load", { browser: one.browser, ms: performance.now() - started });
    const raw = Object.entries(one.inputs).map(([name, t]) => [name, t, readFileSync(`${DIRECTORY}/${t.file}`)]);
    started = performance.now();
    const inputs = {};
    for (const [name, { type, dims }, data] of raw) inputs[name] = { type, dims, data: data.toString("base64") };
    const reply = await page.evaluate(([name, sent]) => window.bench.run(name, sent), [one.model, inputs]);
    const outputs = {};
    for (const [name, { type, dims, data }] of Object.entries(reply.outputs))
      outputs[name] = { type, dims, data: numbers(type, Buffer.from(data, "base64")) };
    record("call", { ms: performance.now() - started, page_ms: reply.ms });
    expect(placement[one.backend], `asked for ${one.backend}`).toBeGreaterThan(0);
    for (const [name, { type, dims, file }] of Object.entries(one.expected)) {
      expect(outputs[name].type).toBe(type);
      expect(outputs[name].dims).toEqual(dims);
      near(name, outputs[name].data, numbers(type, readFileSync(`${DIRECTORY}/${file}`)), one);
    }
  });
}
