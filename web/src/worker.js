// The models, beside the page's own thread: samples in, text and probabilities out.
import * as ort from "onnxruntime-web/wasm";
import { condition, Conditioner, join } from "./conditioning.js";
import { BestPath, blankLogits, describe } from "./decoding.js";

ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", self.location).href };
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

const sessions = new Map();

function session(model, file) {
  const url = `models/${model}/onnx/${file}`;
  if (!sessions.has(url)) sessions.set(url, ort.InferenceSession.create(new URL(url, self.location).href));
  return sessions.get(url);
}

async function load(name) {
  const read = async (file) => (await fetch(`models/${name}/${file}`)).json();
  const model = describe(name, ...(await Promise.all(["config.json", "vocab.json", "tokenizer_config.json"].map(read))));
  const files = ["model_quantized.onnx", ...(model.liveStates ? ["live_quantized.onnx"] : [])];
  await Promise.all(files.map((file) => session(name, file)));
  return model;
}

/** A whole recording. */
async function transcribe({ model, samples }) {
  const runner = await session(model.name, "model_quantized.onnx");
  const begin = performance.now();
  const kept = condition(samples, model.sampleRate, !model.liveStates);
  let logits = blankLogits(model, Math.round(kept.skipped / model.samplesPerFrame));
  if (kept.samples.length) {
    const inputs = { input_values: new ort.Tensor("float32", kept.samples, [1, kept.samples.length]) };
    logits = join(logits, (await runner.run(inputs)).logits.data);
  }
  return { ...spell(new BestPath(model), logits), milliseconds: performance.now() - begin };
}

let stream = null;

/** The next piece of a stream. */
async function feed({ model, samples, first, last }) {
  const runner = await session(model.name, "live_quantized.onnx");
  if (first) {
    const states = {};
    for (const [name, shape] of Object.entries(model.liveStates)) {
      const size = shape.reduce((product, length) => product * length, 1);
      states[name] = new ort.Tensor("float32", new Float32Array(size), shape);
    }
    stream = { states, path: new BestPath(model), conditioner: new Conditioner(model.sampleRate), blanks: 0 };
  }
  const begin = performance.now();
  const kept = stream.conditioner.feed(samples, last);
  const blanks = Math.round(stream.conditioner.skipped / model.samplesPerFrame);
  const silence = blankLogits(model, blanks - stream.blanks);
  stream.blanks = blanks;
  const { logits, ...states } = await runner.run({
    samples: new ort.Tensor("float32", kept, [1, kept.length]),
    last: new ort.Tensor("bool", [last], [1]),
    ...stream.states,
  });
  for (const [name, value] of Object.entries(states)) stream.states[name.slice("next_".length)] = value;
  return { ...spell(stream.path, join(silence, logits.data)), milliseconds: performance.now() - begin };
}

function spell(path, logits) {
  path.add(logits);
  return { text: path.text, words: path.words, logits, frames: path.frames };
}

const TASKS = { load: ({ name }) => load(name), transcribe, feed };
let queue = Promise.resolve(); // one task after the other: states must not overtake each other

self.onmessage = ({ data: { id, task, ...content } }) => {
  queue = queue.then(async () => {
    try {
      self.postMessage({ id, result: await TASKS[task](content) });
    } catch (error) {
      self.postMessage({ id, error: error.message });
    }
  });
};
