// From logits to text: the best path of CTC, with the times of characters and words.

/** Log-softmax over the symbols of one frame, and its best symbol. */
function best(logits, start, size) {
  let label = 0;
  for (let symbol = 1; symbol < size; symbol++) {
    if (logits[start + symbol] > logits[start + label]) label = symbol;
  }
  let total = 0;
  for (let symbol = 0; symbol < size; symbol++) total += Math.exp(logits[start + symbol] - logits[start + label]);
  return { label, probability: 1 / total };
}

// Characters of scripts without spaces between words, with their vowel signs and tone marks.
const UNSPACED =
  /^[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Bopomofo}\p{sc=Yi}ー〆\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}]\p{M}*$/u;

/** Collects the frames of an utterance, in pieces, and spells them. */
export class BestPath {
  /**
   * @param {{symbols: string[], blank: number, delimiter: number, wordBoundaries: string, secondsPerFrame: number}} model
   */
  constructor(model) {
    this.model = model;
    this.frames = 0;
    this.runs = []; // symbols that are no blank, with their frames and probabilities
    this.last = -1; // label of the frame before
  }

  /** Goes on by frames of logits, a Float32Array of (frames, symbols); gives their best labels and probabilities. */
  add(logits) {
    const { symbols, blank } = this.model;
    const path = [];
    for (let start = 0; start < logits.length; start += symbols.length) {
      const { label, probability } = best(logits, start, symbols.length);
      path.push({ label, probability });
      if (label !== blank) {
        if (label === this.last) {
          const run = this.runs.at(-1);
          run.end = this.frames + 1;
          run.probability = Math.max(run.probability, probability);
        } else {
          this.runs.push({ label, start: this.frames, end: this.frames + 1, probability });
        }
      }
      this.last = label;
      this.frames++;
    }
    return path;
  }

  /** Words with their times in seconds, and whether a space stands before each. */
  get words() {
    const { symbols, delimiter, wordBoundaries, secondsPerFrame } = this.model;
    const words = [];
    let isOpen = false;
    let spaced = false;
    for (const { label, start, end } of this.runs) {
      if (label === delimiter) {
        isOpen = false;
        spaced = words.length > 0;
        continue;
      }
      for (const character of symbols[label]) {
        const alone = wordBoundaries === "characters" && UNSPACED.test(character);
        if (isOpen && !alone) {
          words.at(-1).text += character;
          words.at(-1).end = end * secondsPerFrame;
        } else {
          words.push({ text: character, spaced, start: start * secondsPerFrame, end: end * secondsPerFrame });
        }
        isOpen = !alone;
        spaced = false;
      }
    }
    return words;
  }

  get text() {
    return this.words.map((word) => (word.spaced ? " " : "") + word.text).join("");
  }
}

const BLANK_LOGIT = 10;

/** Logits of frames in which nothing is said. */
export function blankLogits({ symbols, blank }, frames) {
  const logits = new Float32Array(frames * symbols.length).fill(-BLANK_LOGIT);
  for (let frame = 0; frame < frames; frame++) logits[frame * symbols.length + blank] = BLANK_LOGIT;
  return logits;
}

/** What a page needs to know of an exported model, from its files. */
export function describe(name, config, vocabulary, tokenizer) {
  const facts = config.deepspeech2;
  const symbols = [];
  for (const [symbol, id] of Object.entries(vocabulary)) symbols[id] = symbol;
  return {
    name,
    symbols,
    blank: vocabulary[tokenizer.pad_token],
    delimiter: vocabulary[tokenizer.word_delimiter_token],
    wordBoundaries: tokenizer.word_boundaries ?? (tokenizer.language === "zh" ? "characters" : "spaces"),
    language: tokenizer.language ?? "und",
    sampleRate: facts.sampling_rate,
    samplesPerFrame: facts.inputs_to_logits_ratio,
    secondsPerFrame: facts.inputs_to_logits_ratio / facts.sampling_rate,
    liveStates: facts.live_states,
  };
}
