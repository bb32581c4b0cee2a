// The page: files and the microphone in, text, times and a picture out. The models work in worker.js.
import { Picture } from "./picture.js";

const find = (id) => document.getElementById(id);
const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();

worker.onmessage = ({ data: { id, result, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  error === undefined ? resolve(result) : reject(new Error(error));
};

function ask(task, content) {
  const id = crypto.randomUUID();
  worker.postMessage({ id, task, ...content });
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

const say = (message) => (find("status").textContent = message);
// Milliseconds: of each piece, and since the page was opened, until a model is ready and until there is a first text.
const measured = (window.measured = { pieces: [], ready: null, text: null });

let model = null;
let sound = null; // what the words play
let recording = null;

async function choose(name) {
  say("Loading the model …");
  find("microphone").disabled = true;
  model = await ask("load", { name });
  find("microphone").disabled = !model.liveStates;
  find("microphone").title = model.liveStates ? "" : "This model reads whole recordings only.";
  find("text").lang = model.language;
  measured.ready ??= performance.now();
  say("Ready.");
}

function show({ text, words }) {
  find("result").hidden = false;
  const spans = words.flatMap((word, index) => {
    const span = document.createElement("span");
    span.textContent = word.text;
    span.dataset.start = word.start.toFixed(2);
    span.dataset.end = word.end.toFixed(2);
    span.title = `${word.start.toFixed(2)} – ${word.end.toFixed(2)} s`;
    return word.spaced && index ? [" ", span] : [span];
  });
  find("text").replaceChildren(...spans);
  if (text) measured.text ??= performance.now();
  else find("text").textContent = "…";
}

find("text").addEventListener("click", ({ target }) => {
  if (!sound || target.dataset.start === undefined) return;
  const context = new AudioContext();
  const source = context.createBufferSource();
  source.buffer = sound;
  source.connect(context.destination);
  target.classList.add("now");
  source.onended = () => {
    target.classList.remove("now");
    context.close();
  };
  const start = Number(target.dataset.start);
  source.start(0, start, Math.max(0.1, Number(target.dataset.end) - start));
});

async function open(file) {
  say(`Reading ${file.name} …`);
  let samples;
  try {
    // Decoded and resampled to the model's rate by the browser itself.
    const context = new OfflineAudioContext(1, 1, model.sampleRate);
    sound = await context.decodeAudioData(await file.arrayBuffer());
    samples = sound.getChannelData(0).slice();
    for (let channel = 1; channel < sound.numberOfChannels; channel++) {
      sound.getChannelData(channel).forEach((sample, index) => (samples[index] += sample));
    }
    if (sound.numberOfChannels > 1) samples = samples.map((sample) => sample / sound.numberOfChannels);
  } catch {
    say(`${file.name} is no audio that this browser can read.`);
    return;
  }
  const result = await ask("transcribe", { model, samples });
  const picture = new Picture(find("picture"), model);
  picture.addSamples(samples);
  picture.addLogits(result.logits);
  show(result);
  picture.draw();
  const seconds = samples.length / model.sampleRate;
  say(`${seconds.toFixed(1)} s of audio in ${(result.milliseconds / 1000).toFixed(2)} s.`);
}

async function record() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
  const context = new AudioContext({ sampleRate: model.sampleRate });
  await context.audioWorklet.addModule("microphone-worklet.js");
  const node = new AudioWorkletNode(context, "microphone", { numberOfOutputs: 0 });
  const picture = new Picture(find("picture"), model);
  recording = { stream, context, picture, first: true, pieces: [] };
  const own = recording;
  node.port.onmessage = ({ data }) => own === recording && feed(own, data, false);
  context.createMediaStreamSource(stream).connect(node);
  find("microphone").textContent = "Stop";
  find("microphone").classList.add("on");
  say("Listening …");
}

async function feed(own, samples, last) {
  own.pieces.push(samples);
  own.picture.addSamples(samples);
  const first = own.first;
  own.first = false;
  const result = await ask("feed", { model, samples, first, last });
  measured.pieces.push(result.milliseconds);
  own.picture.addLogits(result.logits);
  show(result);
  own.picture.draw();
  find("strip").scrollLeft = find("strip").scrollWidth;
}

async function stop() {
  const own = recording;
  recording = null;
  own.stream.getTracks().forEach((track) => track.stop());
  await own.context.close();
  find("microphone").textContent = "Speak";
  find("microphone").classList.remove("on");
  await feed(own, new Float32Array(0), true);
  const length = own.pieces.reduce((total, piece) => total + piece.length, 0);
  sound = length ? new AudioBuffer({ length, sampleRate: model.sampleRate }) : null;
  let place = 0;
  for (const piece of own.pieces) {
    sound?.copyToChannel(piece, 0, place);
    place += piece.length;
  }
  measured.sound = sound;
  const milliseconds = measured.pieces.reduce((total, value) => total + value, 0) / measured.pieces.length;
  say(`${(length / model.sampleRate).toFixed(1)} s of audio, ${milliseconds.toFixed(1)} ms for each piece of 100 ms.`);
}

function attempt(action) {
  action().catch((error) => say(`That did not work: ${error.message}`));
}

find("file").addEventListener("change", ({ target }) => {
  if (target.files.length) attempt(() => open(target.files[0]));
});
find("microphone").addEventListener("click", () => attempt(recording ? stop : record));
find("model").addEventListener("change", ({ target }) => attempt(() => choose(target.value)));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) attempt(() => open(event.dataTransfer.files[0]));
});

attempt(async () => {
  const names = await (await fetch("models/index.json")).json();
  find("model").replaceChildren(...names.map((name) => new Option(name, name)));
  await choose(names[0]);
});

if ("serviceWorker" in navigator) {
  navigator.serviceWorker.register("service-worker.js").then(
    () => navigator.serviceWorker.ready.then(() => (find("offline").textContent = "Stored: works without a network.")),
    (error) => (find("offline").textContent = `Not stored for offline use: ${error.message}`),
  );
}
