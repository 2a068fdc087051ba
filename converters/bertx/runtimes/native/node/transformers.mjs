// An ONNX file in transformers.js, from a folder laid out as the Hub's: config.json, onnx/model.onnx.
import fs from "node:fs";
import path from "node:path";
import { AutoModel, AutoTokenizer, env, LogLevel, Tensor } from "@huggingface/transformers";
import { runner, version } from "./program.mjs";
import { bound, feeds, taken } from "./session.mjs";

env.allowRemoteModels = false;
env.useFSCache = false;
env.logLevel = LogLevel.ERROR;

// Loads an artifact without a download. Without a config.json beside it, it is taken as an encoder of no known family.
async function load(artifact) {
  const folder = path.dirname(path.resolve(artifact));
  const inBundle = path.basename(folder) === "onnx";
  const root = inBundle ? path.dirname(folder) : folder;
  env.localModelPath = path.dirname(root);
  return AutoModel.from_pretrained(path.basename(root), {
    config: fs.existsSync(path.join(root, "config.json")) ? null : { model_type: "custom" },
    device: "cpu",
    dtype: "fp32", // the suffix of the file's name; the artifact's name has its own
    local_files_only: true,
    model_file_name: path.basename(artifact, ".onnx"),
    subfolder: inBundle ? "onnx" : "",
    use_external_data_format: fs.existsSync(`${artifact}_data`),
  });
}

// Texts to tensors, by the tokenizer.json and tokenizer_config.json of a folder.
async function encoder(tokenizer, longest) {
  const folder = path.dirname(path.resolve(tokenizer));
  env.localModelPath = path.dirname(folder);
  const encode = await AutoTokenizer.from_pretrained(path.basename(folder), { local_files_only: true });
  return (texts) => tensors(encode(texts, { padding: true, truncation: true, max_length: longest }));
}

const tensors = (results) => Object.fromEntries(Object.entries(results).map(([name, tensor]) => [name, taken(tensor)]));

await runner("transformers.js", async ({ artifact, tokenizer }, question) => {
  const model = await load(artifact);
  const names = bound(model.sessions.model, question);
  return {
    runtime: "transformers.js",
    encode: tokenizer && (await encoder(tokenizer, question.longest)),
    run: async (inputs) => tensors(await model(feeds({ Tensor }, names, inputs))),
    facts: () => ({ version: version("@huggingface/transformers"), provider: "cpu", device: "cpu", dtype: question.dtype }),
  };
});
