// An ONNX file in onnxruntime-web, on a page in headless Chromium that is served on loopback: --browser /usr/bin/chromium
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { program, version } from "./program.mjs";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const TYPES = { ".html": "text/html", ".mjs": "text/javascript", ".wasm": "application/wasm" };

// Chromium's own requests to its maker are switched off.
const QUIET = [
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-quic",
  "--disable-sync",
  "--no-first-run",
];

// The file that an address stands for: the page and its modules, onnxruntime-web, the artifact and data beside it.
function fileAt(address, artifact) {
  const [, folder, name] = /^\/(ort|data)\/([^/]+)$/.exec(address) ?? [];
  if (folder === "ort") return path.join(HERE, "node_modules/onnxruntime-web/dist", name);
  if (folder === "data") return path.join(path.dirname(artifact), name);
  if (address === "/artifact") return artifact;
  if (address === "/") return path.join(HERE, "browser.html");
  return ["/cases.mjs", "/session.mjs", "/safetensors.mjs"].includes(address) ? path.join(HERE, address) : null;
}

// A server on loopback; what the page posts becomes `server.posted`.
async function serve(artifact, cases) {
  const server = http.createServer(async (request, response) => {
    const address = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
    const file = fileAt(address, artifact);
    if (address === "/outputs" && request.method === "POST") {
      const parts = [];
      for await (const part of request) parts.push(part);
      server.posted = Buffer.concat(parts);
      response.end();
    } else if (address === "/cases") {
      response.end(cases);
    } else if (file && fs.existsSync(file)) {
      response.setHeader("content-type", TYPES[path.extname(file)] ?? "application/octet-stream");
      fs.createReadStream(file).pipe(response);
    } else {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

await program("onnxruntime-web", async ({ artifact, tokenizer, browser: executablePath = "/usr/bin/chromium" }, cases) => {
  if (tokenizer) throw new Error("it takes no texts");
  const server = await serve(artifact, cases);
  const sandbox = process.getuid?.() === 0 ? ["--no-sandbox"] : []; // Chromium has none for root
  const browser = await chromium.launch({ executablePath, args: [...QUIET, ...sandbox] });
  try {
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${server.address().port}/`);
    await page.waitForFunction(() => window.runModel);
    const about = { runtime: "onnxruntime-web", version: `${version("onnxruntime-web")} in Chromium ${browser.version()}`, provider: "wasm", threads: 1 };
    const data = [`${path.basename(artifact)}_data`].filter((name) => fs.existsSync(fileAt(`/data/${name}`, artifact)));
    const run = (given) => window.runModel(...given).then(() => null, (error) => error.message);
    const problem = await page.evaluate(run, [about, data]);
    if (problem !== null) throw new Error(problem);
    return server.posted;
  } finally {
    await browser.close();
    server.close();
  }
});
