// An ONNX file in ONNX Runtime, whichever of its JavaScript packages `ort` is: inputs by name, all outputs.

const ARRAYS = {
  float64: Float64Array,
  float32: Float32Array,
  float16: Uint16Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

export function fed(ort, { dtype, shape, bytes }) {
  return new ort.Tensor(dtype, new ARRAYS[dtype](bytes.buffer, bytes.byteOffset, bytes.byteLength / ARRAYS[dtype].BYTES_PER_ELEMENT), shape);
}

export function taken({ type, dims, data }) {
  return { dtype: type, shape: dims, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) };
}

// Refuses a session whose inputs or outputs are of other types than the question's.
export function checkSession(session, { inputs, outputs }) {
  for (const { name, type } of session.inputMetadata) {
    const spec = inputs.find((each) => each.name === name);
    if (!spec) throw new Error(`the file's input ${name} is none of the cases'`);
    if (spec.dtype !== type) throw new Error(`input ${name} is ${spec.dtype}, the file wants ${type}`);
  }
  for (const { name, type } of session.outputMetadata) {
    const spec = outputs.find((each) => each.name === name);
    if (spec && spec.dtype !== type) throw new Error(`${name} is ${type} where ${spec.dtype} is claimed`);
  }
}

// `source` is a path or bytes, `about` the runtime's name and version and the provider that it computes with.
export async function sessionModel(ort, source, question, { runtime, version, provider }, options = {}) {
  const session = await ort.InferenceSession.create(source, { executionProviders: [provider], logSeverityLevel: 3, ...options });
  checkSession(session, question);
  return {
    runtime,
    async run(inputs) {
      const feeds = Object.fromEntries(session.inputNames.map((name) => [name, fed(ort, inputs[name])]));
      const results = await session.run(feeds);
      return Object.fromEntries(session.outputNames.map((name) => [name, taken(results[name])]));
    },
    facts: () => ({ version, provider, device: "cpu", dtype: question.dtype }),
  };
}
