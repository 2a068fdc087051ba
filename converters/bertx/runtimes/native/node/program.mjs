// The command line of a runner in Node: RUNNER --artifact PATH --inputs CASES --outputs OUT --device cpu
import fs from "node:fs";
import { parseArgs } from "node:util";
import { answers, questions } from "./cases.mjs";

const OPTIONS = ["artifact", "inputs", "outputs", "device", "tokenizer", "browser"];

// The version of an installed package.
export function version(name) {
  return JSON.parse(fs.readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;
}

// `work(chosen, bytes)` gives the bytes of the file of outputs. A failure is one line on standard error.
export async function program(runtime, work) {
  try {
    const { values: chosen } = parseArgs({ options: Object.fromEntries(OPTIONS.map((name) => [name, { type: "string" }])) });
    if (chosen.device !== "cpu") end(5, `E_DEVICE: ${runtime} knows the CPU only; use --device cpu`);
    fs.writeFileSync(chosen.outputs, await work(chosen, fs.readFileSync(chosen.inputs)));
  } catch (error) {
    end(1, `${runtime}: ${error?.message ?? error}`);
  }
  process.exit(0);
}

// `open(chosen, question)` gives a model, which answers the cases.
export function runner(runtime, open) {
  return program(runtime, async (chosen, bytes) => {
    const question = questions(new Uint8Array(bytes));
    const model = await open(chosen, question);
    if (chosen.tokenizer && !model.encode) throw new Error("it takes no texts");
    return answers(model, question);
  });
}

function end(code, line) {
  fs.writeSync(2, `${line.replace(/\s+/g, " ").slice(0, 500)}\n`);
  process.exit(code);
}
