// Builds the page into dist/ (or --output FOLDER), with the exported models that are named:
//   node build.js ../english-live-onnx ../english-onnx
import { createHash } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { build } from "esbuild";

const here = import.meta.dirname;
const { values, positionals: models } = parseArgs({
  allowPositionals: true,
  options: { output: { type: "string", default: path.join(here, "dist") } },
});
const output = path.resolve(values.output);
if (!models.length) {
  console.error("build.js: name at least one exported model (deepspeech2 export MODEL OUTPUT).");
  process.exit(2);
}

const NEEDED = ["config.json", "vocab.json", "tokenizer_config.json", "onnx/model_quantized.onnx"];
for (const model of models) {
  const missing = NEEDED.find((file) => !fs.existsSync(path.join(model, file)));
  if (missing) {
    console.error(`build.js: found no ${missing} in ${model}, expected the folder of an exported model.`);
    process.exit(2);
  }
}

fs.rmSync(output, { recursive: true, force: true });
fs.mkdirSync(output, { recursive: true });
await build({
  entryPoints: ["page.js", "worker.js", "microphone-worklet.js"].map((file) => path.join(here, "src", file)),
  bundle: true,
  format: "esm",
  minify: true,
  outdir: output,
  logLevel: "warning",
});
for (const file of ["index.html", "style.css", "icon.svg"]) {
  fs.copyFileSync(path.join(here, "src", file), path.join(output, file));
}
fs.copyFileSync(path.join(here, "README.md"), path.join(output, "README.md"));
const wasm = "ort-wasm-simd-threaded.wasm";
fs.copyFileSync(path.join(here, "node_modules", "onnxruntime-web", "dist", wasm), path.join(output, wasm));
for (const model of models) {
  for (const file of [...NEEDED, "onnx/live_quantized.onnx"]) {
    const source = path.join(model, file);
    if (!fs.existsSync(source)) continue; // only a model for streams has a live graph
    const target = path.join(output, "models", path.basename(model), file);
    fs.mkdirSync(path.dirname(target), { recursive: true });
    fs.copyFileSync(source, target);
  }
}
const names = models.map((model) => path.basename(model));
fs.writeFileSync(path.join(output, "models", "index.json"), JSON.stringify(names));

const files = fs
  .readdirSync(output, { recursive: true })
  .filter((file) => fs.statSync(path.join(output, file)).isFile() && file !== "README.md")
  .map((file) => file.split(path.sep).join("/"))
  .sort();
const hash = createHash("sha256");
for (const file of files) hash.update(file).update(fs.readFileSync(path.join(output, file)));
const worker = fs
  .readFileSync(path.join(here, "src", "service-worker.js"), "utf8")
  .replace("__VERSION__", hash.digest("hex").slice(0, 16))
  .replace("__FILES__", JSON.stringify(["./", ...files]));
fs.writeFileSync(path.join(output, "service-worker.js"), worker);
