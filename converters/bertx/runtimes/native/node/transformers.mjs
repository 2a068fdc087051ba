// An ONNX file in transformers.js, from a folder laid out as the Hub's: config.json, onnx/model.onnx.
import fs from "node:fs";
import path from "node:path";
import { AutoModel, env, LogLevel, Tensor } from "@huggingface/transformers";
import { runner, version } from "./program.mjs";
import { checkSession, fed, taken } from "./session.mjs";

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

await runner("transformers.js", async ({ artifact }, question) => {
  const model = await load(artifact);
  checkSession(model.sessions.model, question);
  return {
    runtime: "transformers.js",
    async run(inputs) {
      const given = Object.entries(inputs).map(([name, tensor]) => [name, fed({ Tensor }, tensor)]);
      const results = await model(Object.fromEntries(given));
      return Object.fromEntries(Object.entries(results).map(([name, tensor]) => [name, taken(tensor)]));
    },
    facts: () => ({ version: version("@huggingface/transformers"), provider: "cpu", device: "cpu", dtype: question.dtype }),
  };
});
