// The waveform, and below it the probability of each character over time, on one clock.

const PIXELS_PER_SECOND = 110;
const WAVE_HEIGHT = 70;
const ROW_HEIGHT = 15;
const LEFT = 26; // room for the names of the symbols
const MOST_ROWS = 26;
const SHOWN = 0.05; // a symbol that is never as probable has no row
const PROBABLE = "#2f7fd1";
const LONGEST = 60; // seconds, the last ones of what is longer

export class Picture {
  constructor(canvas, model) {
    this.canvas = canvas;
    this.model = model;
    this.samples = [];
    this.length = 0;
    this.columns = []; // of each frame, a map from symbol to probability
  }

  addSamples(samples) {
    this.samples.push(samples);
    this.length += samples.length;
  }

  addLogits(logits) {
    const size = this.model.symbols.length;
    for (let start = 0; start < logits.length; start += size) {
      let top = -Infinity;
      for (let symbol = 0; symbol < size; symbol++) top = Math.max(top, logits[start + symbol]);
      let total = 0;
      for (let symbol = 0; symbol < size; symbol++) total += Math.exp(logits[start + symbol] - top);
      const column = new Map();
      for (let symbol = 0; symbol < size; symbol++) {
        const probability = Math.exp(logits[start + symbol] - top) / total;
        if (probability >= SHOWN && symbol !== this.model.blank) column.set(symbol, probability);
      }
      this.columns.push(column);
    }
  }

  /** Symbols with a row of their own: those of the greatest probability, in the order of the alphabet. */
  #rows() {
    const weights = new Map();
    for (const column of this.columns) {
      for (const [symbol, probability] of column) weights.set(symbol, (weights.get(symbol) ?? 0) + probability);
    }
    const kept = [...weights].sort((one, other) => other[1] - one[1]).slice(0, MOST_ROWS);
    return kept.map(([symbol]) => symbol).sort((one, other) => one - other);
  }

  draw() {
    const { sampleRate, secondsPerFrame, symbols, delimiter } = this.model;
    const seconds = this.length / sampleRate;
    const from = Math.max(0, seconds - LONGEST);
    const rows = this.#rows();
    const width = LEFT + Math.max(300, Math.ceil((seconds - from) * PIXELS_PER_SECOND));
    const height = WAVE_HEIGHT + 8 + Math.max(4, rows.length) * ROW_HEIGHT;
    const scale = self.devicePixelRatio || 1;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    const style = getComputedStyle(this.canvas);
    const x = (time) => LEFT + (time - from) * PIXELS_PER_SECOND;
    this.#drawWave(context, style.color, x, from);
    context.fillStyle = style.color;
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    const places = new Map(rows.map((symbol, row) => [symbol, WAVE_HEIGHT + 8 + row * ROW_HEIGHT]));
    for (const [symbol, top] of places) {
      context.globalAlpha = 0.8;
      context.fillText(symbol === delimiter ? "␣" : symbols[symbol], 6, top + ROW_HEIGHT / 2);
      context.globalAlpha = 0.08;
      context.fillRect(LEFT, top + ROW_HEIGHT - 1, width, 1);
    }
    context.fillStyle = PROBABLE;
    for (let frame = Math.floor(from / secondsPerFrame); frame < this.columns.length; frame++) {
      for (const [symbol, probability] of this.columns[frame]) {
        if (!places.has(symbol)) continue;
        context.globalAlpha = probability;
        context.fillRect(x(frame * secondsPerFrame), places.get(symbol), secondsPerFrame * PIXELS_PER_SECOND, ROW_HEIGHT - 2);
      }
    }
    context.globalAlpha = 1;
  }

  #drawWave(context, color, x, from) {
    const { sampleRate } = this.model;
    const step = sampleRate / PIXELS_PER_SECOND; // samples in a pixel
    context.fillStyle = color;
    context.globalAlpha = 0.7;
    let place = 0;
    for (const piece of this.samples) {
      for (let start = 0; start < piece.length; start += step) {
        const time = (place + start) / sampleRate;
        if (time < from) continue;
        let peak = 0;
        const end = Math.min(piece.length, start + step);
        for (let index = Math.floor(start); index < end; index++) peak = Math.max(peak, Math.abs(piece[index]));
        const size = Math.max(1, Math.min(1, peak) * (WAVE_HEIGHT - 4));
        context.fillRect(x(time), (WAVE_HEIGHT - size) / 2, 1, size);
      }
      place += piece.length;
    }
    context.globalAlpha = 1;
  }
}
