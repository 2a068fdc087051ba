// An ONNX file in onnxruntime-node.
import * as ort from "onnxruntime-node";
import { runner, version } from "./program.mjs";
import { sessionModel } from "./session.mjs";

const about = { runtime: "onnxruntime-node", version: version("onnxruntime-node"), provider: "cpu" };
await runner(about.runtime, ({ artifact }, question) => sessionModel(ort, artifact, question, about));
