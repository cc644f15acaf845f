// The wire format of pytest_browserpool/browsers/protocol.py, seen from the page.

const textDecoder = new TextDecoder();
const textEncoder = new TextEncoder();
const pad8 = (n) => (n + 7) & ~7;

const hasFloat16 = typeof Float16Array !== "undefined";
const ARRAYS = {
  float32: Float32Array, float64: Float64Array, float16: hasFloat16 ? Float16Array : Uint16Array,
  int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array, bool: Uint8Array,
};

/** Header and tensors ({name: {type, dims, data}}) of a message; data lies over the message, nothing is copied. */
export function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(textDecoder.decode(new Uint8Array(buffer, 4, length)));
  const start = pad8(4 + length);
  const tensors = {};
  for (const [name, type, dims, offset, nbytes] of header.tensors) {
    if (type === "string") {
      tensors[name] = { type, dims, data: header.strings[name] };
    } else {
      const Kind = ARRAYS[type];
      tensors[name] = { type, dims, data: new Kind(buffer, start + offset, nbytes / Kind.BYTES_PER_ELEMENT) };
    }
  }
  return { header, tensors };
}

/** One message from a header and a list of [name, {type, dims, data}]. */
export function encode(header, tensors) {
  const table = [], strings = {};
  let size = 0;
  for (const [name, { type, dims, data }] of tensors) {
    if (!(type in ARRAYS) && type !== "string") throw new Error(`output ${name} has type ${type}, which cannot travel`);
    if (type === "string") {
      strings[name] = Array.from(data);
      table.push([name, type, Array.from(dims), 0, 0]);
    } else {
      table.push([name, type, Array.from(dims), size, data.byteLength]);
      size += pad8(data.byteLength);
    }
  }
  const text = textEncoder.encode(JSON.stringify({ ...header, tensors: table, strings }));
  const start = pad8(4 + text.length);
  const buffer = new ArrayBuffer(start + size);
  const bytes = new Uint8Array(buffer);
  new DataView(buffer).setUint32(0, text.length, true);
  bytes.set(text, 4);
  let index = 0;
  for (const [, { type, data }] of tensors) {
    const offset = table[index++][3];
    if (type !== "string") bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), start + offset);
  }
  return buffer;
}
