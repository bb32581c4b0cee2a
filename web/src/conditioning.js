// Prepares samples for the network as modeling_deepspeech2/conditioning.py does: takes off the silence before the speech,
// and amplifies a quiet recording. Levels are in dBFS.

const FRAMES_PER_SECOND = 100;
const NOTHING = 1e-5; // amplitude below that of 16-bit samples: digital zero
const STEADY_FRAMES = 30; // that must be equally loud to be silence
const STEADY_DB = 3;
const LOUDEST_SILENCE = -40;
const SILENT_LEVEL = -120; // of digital zero
const LASTING_FRAMES = 3; // in a row that are loud, and so no click
const USUAL_LEVEL = -32; // that the loudest sound reaches, from which on nothing is amplified
const TARGET_LEVEL = -18; // that it reaches after amplification
const HEADROOM = 8; // dB above that, before the gain is lowered
const SPEECH_RANGE = 15; // dB between the loudest and the quietest frame, if there is speech
const MEASURED_FRAMES = 100; // of a stream from the beginning of quiet speech on, to find its level
const MEASURED_FRAMES_OF_FILES = 1000; // and of a recording that is read as a whole
const WAITING_FRAMES = 100; // without speech that are held back at most

export function join(...arrays) {
  const joined = new Float32Array(arrays.reduce((length, array) => length + array.length, 0));
  let place = 0;
  for (const array of arrays) {
    joined.set(array, place);
    place += array.length;
  }
  return joined;
}

/** The level that each frame and those after it reach: where there is a click, the level of what it stands in. */
function lasting(levels) {
  const frames = Math.max(0, levels.length - LASTING_FRAMES + 1);
  return Array.from({ length: frames }, (_, place) => Math.min(...levels.slice(place, place + LASTING_FRAMES)));
}

/** The state of one recording or stream. */
export class Conditioner {
  /** `isWhole`: for a model that reads recordings as a whole and no streams. */
  constructor(rate, isWhole = false) {
    this.size = Math.max(1, Math.floor(rate / FRAMES_PER_SECOND));
    this.measured = isWhole ? MEASURED_FRAMES_OF_FILES : MEASURED_FRAMES;
    this.loudestSilence = LOUDEST_SILENCE;
    this.skipped = 0; // samples taken off the beginning
    this.gain = null; // dB; null: not known yet
    this.held = new Float32Array(0); // samples that wait for a decision
    this.stage = "zero"; // then "steady" silence, and "sound"
    this.steadyLevel = null;
    this.floor = Infinity; // level of the quietest frame so far
  }

  /** The samples that can be passed on; `last`: nothing comes after. */
  feed(samples, last = false) {
    if (this.stage === "sound" && this.gain === 0 && !this.held.length) return samples;
    this.held = join(this.held, samples);
    while (this.stage !== "sound" && this.skipSilence(last));
    if (this.stage !== "sound") return new Float32Array(0);
    return this.gain === null ? this.findGain(last) : this.amplify(last);
  }

  /** The level of each whole frame that waits. */
  levels() {
    const levels = [];
    for (let start = 0; start + this.size <= this.held.length; start += this.size) {
      let power = 0;
      for (let index = start; index < start + this.size; index++) power += this.held[index] * this.held[index];
      levels.push(10 * Math.log10(power / this.size + 1e-12));
    }
    return levels;
  }

  release(samples) {
    const released = this.held.slice(0, samples);
    this.held = this.held.slice(samples);
    return released;
  }

  skip(samples) {
    this.skipped += this.release(samples).length;
  }

  /** Takes off silence; returns whether another stage has begun, so that there may be more. */
  skipSilence(last) {
    if (this.stage === "zero") {
      const sounding = this.held.findIndex((sample) => Math.abs(sample) > NOTHING);
      const first = sounding < 0 ? this.held.length : sounding;
      if (this.skipped || first >= this.size || (last && sounding < 0)) {
        this.skip(first);
        this.floor = SILENT_LEVEL;
      }
      if (sounding >= 0) this.stage = "steady";
      return sounding >= 0;
    }
    const levels = this.levels();
    if (this.steadyLevel === null) return this.findSteadyLevel(levels, last);
    const louder = lasting(levels).map((level) => level > this.steadyLevel + STEADY_DB);
    const first = louder.findIndex((isLouder, index) => isLouder || levels[index] < this.steadyLevel - STEADY_DB);
    if (first < 0) {
      this.skip(last ? this.held.length : louder.length * this.size);
      return false;
    }
    this.stage = louder[first] ? "sound" : "zero";
    this.steadyLevel = null;
    this.skip(first * this.size);
    return true;
  }

  findSteadyLevel(levels, last) {
    const steady = levels.slice(0, STEADY_FRAMES);
    if (steady.length < STEADY_FRAMES && !last) return false;
    const power = steady.reduce((sum, level) => sum + 10 ** (level / 10), 0) / steady.length;
    const level = steady.length ? 10 * Math.log10(power) : 0;
    const isSteady = steady.every((one) => Math.abs(one - level) <= STEADY_DB);
    if (steady.length < STEADY_FRAMES || level > this.loudestSilence || !isSteady) {
      this.stage = "sound";
    } else {
      this.steadyLevel = level;
      this.floor = Math.min(this.floor, level);
    }
    return true;
  }

  /** Waits until enough speech has come, or something of the usual level. */
  findGain(last) {
    const levels = lasting(this.levels());
    let floor = this.floor;
    const speech = levels.findIndex((level) => {
      floor = Math.min(floor, level);
      return level > floor + SPEECH_RANGE;
    });
    const end = speech < 0 ? levels.length + 1 : speech + this.measured;
    if (levels.slice(0, end).some((level) => level > USUAL_LEVEL) || (last && speech < 0)) {
      this.gain = 0;
      return this.release(this.held.length);
    }
    if (end <= levels.length || last) {
      this.gain = TARGET_LEVEL - Math.max(...levels.slice(speech, end));
      const before = this.release(Math.max(0, speech - WAITING_FRAMES) * this.size);
      return join(before, this.amplify(last));
    }
    const waiting = speech < 0 ? Math.max(0, levels.length - WAITING_FRAMES) : 0;
    this.floor = levels.slice(0, waiting).reduce((lowest, level) => Math.min(lowest, level), this.floor);
    return this.release(waiting * this.size);
  }

  /** Whole frames with the gain that each has; a louder voice lowers it from there on. */
  amplify(last) {
    const levels = lasting(this.levels());
    const gains = levels.map((level) => {
      if (this.gain > 0 && level + this.gain > TARGET_LEVEL + HEADROOM) this.gain = Math.max(0, TARGET_LEVEL - level);
      return this.gain;
    });
    gains.push(this.gain);
    const whole = last || this.gain === 0 ? this.held.length : levels.length * this.size;
    const factors = gains.map((gain) => Math.fround(10 ** (gain / 20)));
    // What follows has the gain of the last.
    return this.release(whole).map((sample, index) => sample * factors[Math.min(Math.floor(index / this.size), levels.length)]);
  }
}

/** A whole recording without the silence around it, and how many samples were taken off its beginning. */
export function condition(samples, rate, isWhole) {
  const conditioner = new Conditioner(rate, isWhole);
  const kept = conditioner.feed(samples, true);
  if (!isWhole || !kept.length) return { samples: kept, skipped: conditioner.skipped };
  const backwards = new Conditioner(rate);
  backwards.loudestSilence += conditioner.gain ?? 0; // which was amplified as well
  backwards.gain = 0;
  backwards.feed(kept.slice().reverse(), true);
  return { samples: kept.slice(0, kept.length - backwards.skipped), skipped: conditioner.skipped };
}
