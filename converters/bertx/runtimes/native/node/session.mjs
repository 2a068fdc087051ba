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

function fed(ort, { dtype, shape, bytes }) {
  return new ort.Tensor(dtype, new ARRAYS[dtype](bytes.buffer, bytes.byteOffset, bytes.byteLength / ARRAYS[dtype].BYTES_PER_ELEMENT), shape);
}

export function taken({ type, dims, data }) {
  return { dtype: type, shape: dims, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) };
}

// What the cases call the session's inputs: the same, or where it has names of its own, by their order.
// Refuses inputs or outputs of other types than the question's.
export function bound(session, { inputs, outputs }) {
  const theirs = session.inputMetadata;
  const known = theirs.every(({ name }) => inputs.some((spec) => spec.name === name));
  if (!known && theirs.length !== inputs.length) {
    throw new Error(`the file takes ${session.inputNames}, the cases have ${inputs.map(({ name }) => name)}`);
  }
  const names = {};
  theirs.forEach(({ name, type }, i) => {
    const spec = known ? inputs.find((each) => each.name === name) : inputs[i];
    if (spec.dtype !== type) throw new Error(`input ${name} is ${spec.dtype}, the file wants ${type}`);
    names[name] = spec.name;
  });
  for (const { name, type } of session.outputMetadata) {
    const spec = outputs.find((each) => each.name === name);
    if (spec && spec.dtype !== type) throw new Error(`${name} is ${type} where ${spec.dtype} is claimed`);
  }
  return names;
}

// A case's tensors as the session takes them.
export function feeds(ort, names, inputs) {
  return Object.fromEntries(Object.entries(names).map(([theirs, ours]) => [theirs, fed(ort, inputs[ours])]));
}

// The threads that the cases ask for, as an option of sessions and as a fact; without, a session takes as many as it likes.
export const threaded = ({ threads }) => (threads ? { intraOpNumThreads: threads } : {});
export const told = ({ threads }) => (threads ? { threads: String(threads) } : {});

// `source` is a path or bytes, `about` the runtime's name and version and the provider that it computes with, and its
// threads where they are not for the question to say.
export async function sessionModel(ort, source, question, { runtime, version, provider, threads = question.threads }, options = {}) {
  const session = await ort.InferenceSession.create(source, { executionProviders: [provider], logSeverityLevel: 3, ...threaded({ threads }), ...options });
  const names = bound(session, question);
  return {
    runtime,
    async run(inputs) {
      const results = await session.run(feeds(ort, names, inputs));
      return Object.fromEntries(session.outputNames.map((name) => [name, taken(results[name])]));
    },
    facts: () => ({ version, provider, device: "cpu", dtype: question.dtype, ...told({ threads }) }),
  };
}
