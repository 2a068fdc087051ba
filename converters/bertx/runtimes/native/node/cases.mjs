// The runner protocol (docs/runners.md), in Node and in the browser: a model runs on every case of a file.
// A model is { runtime, run(inputs), facts() } and, where it takes texts, encode(texts); tensors are those of
// safetensors.mjs.
import { read, write } from "./safetensors.mjs";

// What is asked: the inputs in order, the outputs, the dtype that the file claims; the cases, and the texts of some of
// them, by name; the most tokens that a text may have; how many threads to compute with.
export function questions(bytes) {
  const { tensors, metadata } = read(bytes);
  const { inputs, outputs } = JSON.parse(metadata.signature);
  const cases = new Map();
  for (const [key, tensor] of tensors) {
    const slash = key.indexOf("/");
    const name = key.slice(0, slash);
    cases.set(name, { ...cases.get(name), [key.slice(slash + 1)]: tensor });
  }
  const texts = JSON.parse(metadata.texts ?? "{}");
  const [longest, threads] = [metadata.longest, metadata.threads].map((text) => Number(text ?? 0) || undefined);
  return { inputs, outputs, dtype: metadata.dtype, cases, texts, longest, threads };
}

// The bytes of the file of outputs.
export async function answers(model, { inputs, outputs, cases, texts }) {
  const made = new Map();
  const seconds = {};
  for (const [name, stored] of cases) {
    const encoded = model.encode && texts[name] && (await model.encode(texts[name]));
    const given = encoded || stored;
    const axes = {};
    for (const spec of inputs) {
      if (!given[spec.name]) throw new Error(`case ${name} lacks the input ${spec.name}`);
      check(spec, given[spec.name], axes);
      if (encoded) made.set(`${name}/${spec.name}`, given[spec.name]);
    }
    const started = performance.now();
    const results = await model.run(given);
    seconds[name] = (performance.now() - started) / 1000;
    for (const spec of outputs) if (results[spec.name]) check(spec, results[spec.name], axes);
    for (const [output, tensor] of Object.entries(results)) made.set(`${name}/${output}`, tensor);
  }
  return write(made, { runtime: model.runtime, ...model.facts(), seconds: JSON.stringify(seconds) });
}

// Compares a tensor with its spec; a named axis has one size within a case, which `axes` remembers.
function check({ name, dtype, shape }, tensor, axes) {
  if (tensor.dtype !== dtype) throw new Error(`${name} is ${tensor.dtype} where ${dtype} is claimed`);
  if (shape.length === 0) return; // not stated
  const sizes = shape.map((size, i) => (typeof size === "number" ? size : (axes[size] ??= tensor.shape[i])));
  if (sizes.length !== tensor.shape.length || sizes.some((size, i) => size !== tensor.shape[i])) {
    throw new Error(`${name} has shape (${tensor.shape}), which its signature (${shape}) does not allow`);
  }
}
