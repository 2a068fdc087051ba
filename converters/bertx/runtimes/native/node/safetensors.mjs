// Reads and writes safetensors bytes, in Node and in the browser: a header length, a JSON header, the tensors' bytes.
// A tensor is { dtype, shape, bytes }: dtype as PyTorch and ONNX Runtime call it ("float32"), bytes little-endian.

const CODES = {
  float64: ["F64", 8],
  float32: ["F32", 4],
  float16: ["F16", 2],
  bfloat16: ["BF16", 2],
  int64: ["I64", 8],
  int32: ["I32", 4],
  int8: ["I8", 1],
  uint8: ["U8", 1],
  bool: ["BOOL", 1],
};

export function read(bytes) {
  const whole = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = bytes.byteLength < 8 ? Infinity : Number(whole.getBigUint64(0, true));
  if (length > bytes.byteLength - 8) throw new Error("this is no safetensors file");
  const { __metadata__: metadata = {}, ...header } = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const tensors = new Map();
  for (const [name, { dtype: code, shape, data_offsets: [begin, end] }] of Object.entries(header)) {
    const [dtype, [, size]] = Object.entries(CODES).find(([, [known]]) => known === code) ?? [null, []];
    if (!dtype) throw new Error(`${name}: dtype ${code} is not supported`);
    if (end - begin !== shape.reduce((product, each) => product * each, size)) throw new Error(`${name} does not fit its shape`);
    tensors.set(name, { dtype, shape, bytes: bytes.slice(8 + length + begin, 8 + length + end) });
  }
  return { tensors, metadata };
}

export function write(tensors, metadata) {
  const header = { __metadata__: metadata };
  let end = 0;
  for (const [name, { dtype, shape, bytes }] of tensors) {
    header[name] = { dtype: CODES[dtype][0], shape: [...shape], data_offsets: [end, (end += bytes.byteLength)] };
  }
  let text = new TextEncoder().encode(JSON.stringify(header));
  const head = new Uint8Array(8 + Math.ceil(text.length / 8) * 8).fill(32);
  new DataView(head.buffer).setBigUint64(0, BigInt(head.length - 8), true);
  head.set(text, 8);
  const file = new Uint8Array(head.length + end);
  file.set(head);
  let at = head.length;
  for (const { bytes } of tensors.values()) {
    file.set(bytes, at);
    at += bytes.byteLength;
  }
  return file;
}
