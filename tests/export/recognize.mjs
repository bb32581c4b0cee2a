// Transcribes waveforms with transformers.js as it comes from npm:
//   node recognize.mjs TRANSFORMERS FOLDER DTYPE < samples
// FOLDER is an exported model; on the standard input stand waveforms of float32 samples, each behind its length (uint32).
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [, , library, folder, dtype] = process.argv;
const { env, pipeline } = await import(pathToFileURL(library));
env.allowRemoteModels = false;
env.localModelPath = path.dirname(folder) + path.sep;
const recognizer = await pipeline("automatic-speech-recognition", path.basename(folder), { dtype });

const content = fs.readFileSync(0);
const texts = [];
for (let place = 0; place < content.length; ) {
  const length = content.readUInt32LE(place);
  const samples = content.subarray(place + 4, place + 4 + 4 * length);
  texts.push((await recognizer(new Float32Array(new Uint8Array(samples).buffer))).text);
  place += 4 + 4 * length;
}
console.log(JSON.stringify(texts));
