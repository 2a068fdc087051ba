// Visits a page in headless Chromium: node visit.mjs PACKAGE_FOLDER ADDRESS SCREENSHOT TEXTS.json
// Types the texts, presses the button, and prints what the page shows, its embeddings, and what it asked for elsewhere.
import fs from "node:fs";
import { createRequire } from "node:module";

const [packages, address, screenshot, texts] = process.argv.slice(2);
const { chromium } = createRequire(`${packages}/`)("playwright-core");
const quiet = ["--disable-background-networking", "--disable-component-update", "--disable-quic", "--disable-sync", "--no-first-run"];
const sandbox = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: [...quiet, ...sandbox] });
try {
  const page = await browser.newPage({ viewport: { width: 800, height: 600 } });
  const elsewhere = [];
  const errors = [];
  page.on("request", (request) => /^(blob:|data:)/.test(request.url()) || request.url().startsWith(address) || elsewhere.push(request.url()));
  page.on("pageerror", (error) => errors.push(error.message));
  await page.goto(address);
  await page.waitForFunction(() => document.getElementById("state").textContent === "ready", null, { timeout: 120000 });
  const given = JSON.parse(fs.readFileSync(texts, "utf8"));
  await page.fill("#texts", given.join("\n"));
  await page.click("#go");
  await page.waitForSelector("#answers tr");
  await page.screenshot({ path: screenshot });
  const shown = await page.$$eval("#answers tr", (rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));
  const embeddings = await page.evaluate((texts) => window.embed(texts), given);
  console.log(JSON.stringify({ shown, embeddings, elsewhere, errors }));
} finally {
  await browser.close();
}
