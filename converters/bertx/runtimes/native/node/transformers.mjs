// An ONNX file in transformers.js, from a folder laid out as the Hub's: config.json, onnx/model.onnx.
import fs from "node:fs";
import path from "node:path";
import { AutoModel, AutoTokenizer, env, LogLevel, Tensor } from "@huggingface/transformers";
import { runner, version } from "./program.mjs";
import { bound, feeds, taken, threaded, told } from "./session.mjs";

env.allowRemoteModels = false;
env.useFSCache = false;
env.logLevel = LogLevel.ERROR;

// Loads an artifact without a download, from its folder as a whole path: a name alone would have to be one that a
// repository on the Hub may have, and that of a folder which is being written begins with a dot. Without a config.json
// beside it, it is taken as an encoder of no known family.
async function load(artifact, question) {
  const folder = path.dirname(path.resolve(artifact));
  const inBundle = path.basename(folder) === "onnx";
  const root = inBundle ? path.dirname(folder) : folder;
  return AutoModel.from_pretrained(root, {
    config: fs.existsSync(path.join(root, "config.json")) ? null : { model_type: "custom" },
    device: "cpu",
    dtype: "fp32", // the suffix of the file's name; the artifact's name has its own
    local_files_only: true,
    session_options: threaded(question),
    model_file_name: path.basename(artifact, ".onnx"),
    subfolder: inBundle ? "onnx" : "",
    use_external_data_format: fs.existsSync(`${artifact}_data`),
  });
}

// Texts to tensors, by the tokenizer.json and tokenizer_config.json of a folder. `longest`: the most tokens of a text.
async function encoder(tokenizer, longest) {
  const folder = path.dirname(path.resolve(tokenizer));
  if (fs.existsSync(path.join(folder, "mecab_contract.json"))) {
    throw new Error("it does not do what mecab_contract.json asks for: Japanese texts are for programs that do");
  }
  const encode = await AutoTokenizer.from_pretrained(folder, { local_files_only: true });
  const spell = speller(JSON.parse(fs.readFileSync(tokenizer, "utf8")).normalizer);
  return (texts) => {
    const encoded = Object.entries(encode(texts.map(spell), { padding: false, truncation: false, return_tensor: false }));
    const made = Object.fromEntries(encoded.map(([name, rows]) => [name, batch(rows, longest, name === "input_ids" ? encode.pad_token_id : 0)]));
    // Zeros where its class of tokenizers gives none, as the models of transformers.js take them.
    const { dtype, shape, bytes } = made.input_ids;
    return { token_type_ids: { dtype, shape, bytes: new Uint8Array(bytes.length) }, ...made };
  };
}

// What a text goes through before transformers.js lower-cases it: of Σ at the end of a word JavaScript makes ς, tokenizers
// in Rust and Python σ.
function speller(normalizer) {
  const lowers = /"lowercase":true|"type":"Lowercase"/.test(JSON.stringify(normalizer));
  return lowers ? (text) => text.replaceAll("Σ", "σ") : (text) => text;
}

// Rows of numbers, cut and padded on the right, as a tensor. (The tokenizer's own truncation drops the last special token.)
function batch(rows, longest, padding) {
  const cut = rows.map((row) => (row.length > longest ? [...row.slice(0, longest - 1), row.at(-1)] : row));
  const sequence = Math.max(...cut.map((row) => row.length));
  const padded = cut.flatMap((row) => [...row, ...Array(sequence - row.length).fill(padding)]);
  return { dtype: "int64", shape: [rows.length, sequence], bytes: new Uint8Array(BigInt64Array.from(padded, BigInt).buffer) };
}

const tensors = (results) => Object.fromEntries(Object.entries(results).map(([name, tensor]) => [name, taken(tensor)]));

await runner("transformers.js", async ({ artifact, tokenizer }, question) => {
  const model = await load(artifact, question);
  const names = bound(model.sessions.model, question);
  return {
    runtime: "transformers.js",
    encode: tokenizer && (await encoder(tokenizer, question.longest)),
    run: async (inputs) => tensors(await model(feeds({ Tensor }, names, inputs))),
    facts: () => ({ version: version("@huggingface/transformers"), provider: "cpu", device: "cpu", dtype: question.dtype, ...told(question) }),
  };
});
