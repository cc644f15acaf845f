// The wire format of pytest_browserpool/browsers/protocol.py and pieces.py, seen from the page.

const textDecoder = new TextDecoder();
const textEncoder = new TextEncoder();
const pad8 = (n) => (n + 7) & ~7;
const PIECE = 1 << 20;
const SMALL = PIECE / 16;

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

/** The WebSocket messages for a header and a list of [name, {type, dims, data}]: one, or pieces (see pieces.py). */
export function* messages(header, tensors) {
  const parts = encode(header, tensors);
  const size = parts.reduce((sum, part) => sum + part.byteLength, 0);
  if (size <= PIECE) {
    yield joined(parts);
    return;
  }
  yield new Uint32Array([0, size]);
  let small = [];
  for (const part of parts) {
    if (!part.byteLength) continue; // nothing follows the last byte: an empty message would be one of its own
    if (part.byteLength < SMALL) {
      small.push(part);
      continue;
    }
    if (small.length) yield joined(small);
    small = [];
    for (let at = 0; at < part.byteLength; at += PIECE) yield part.subarray(at, at + PIECE); // a view: the socket copies
  }
  if (small.length) yield joined(small);
}

/** One message in parts that follow each other; the tensors' bytes are not copied. */
function encode(header, tensors) {
  const table = [], strings = {}, parts = [];
  let size = 0;
  for (const [name, { type, dims, data }] of tensors) {
    if (!(type in ARRAYS) && type !== "string") throw new Error(`output ${name} has type ${type}, which cannot travel`);
    if (type === "string") {
      strings[name] = Array.from(data);
      table.push([name, type, Array.from(dims), 0, 0]);
    } else {
      table.push([name, type, Array.from(dims), size, data.byteLength]);
      size += pad8(data.byteLength);
      parts.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      if (data.byteLength & 7) parts.push(new Uint8Array(-data.byteLength & 7));
    }
  }
  const text = textEncoder.encode(JSON.stringify({ ...header, tensors: table, strings }));
  const head = new Uint8Array(pad8(4 + text.length));
  new DataView(head.buffer).setUint32(0, text.length, true);
  head.set(text, 4);
  return [head, ...parts];
}

function joined(parts) {
  if (parts.length === 1) return parts[0];
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.byteLength;
  }
  return bytes;
}

/** The receiving end: gives the whole message that an ArrayBuffer is or ends, null where there is more to come. */
export class Assembly {
  take(buffer) {
    if (!this.whole) {
      if (buffer.byteLength !== 8 || new Uint32Array(buffer)[0] !== 0) return buffer;
      this.whole = new Uint8Array(new Uint32Array(buffer)[1]);
      this.filled = 0;
      return null;
    }
    this.whole.set(new Uint8Array(buffer), this.filled);
    this.filled += buffer.byteLength;
    if (this.filled < this.whole.byteLength) return null;
    const whole = this.whole.buffer;
    this.whole = null;
    return whole;
  }
}
