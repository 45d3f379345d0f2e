// Readings: input level, latency, CPU share.

const LOWEST_DB = -60;
const MOST_LATENCIES = 100; // latest notes to measure
const CLIPPED = 0.999;

/** The input level as a bar, with its peak as text. */
export class Level {
  #bar;
  #text;
  #peak = 0;
  #shown = 0; // performance.now() at the last update

  constructor(bar, text) {
    this.#bar = bar;
    this.#text = text;
  }

  add(samples) {
    for (const sample of samples) this.#peak = Math.max(this.#peak, Math.abs(sample));
    if (performance.now() - this.#shown < 100) return;
    this.#shown = performance.now();
    const db = Math.max(LOWEST_DB, 20 * Math.log10(this.#peak + 1e-9));
    this.#bar.value = db;
    this.#text.textContent = this.#peak >= CLIPPED ? "too loud" : db <= LOWEST_DB ? "silence" : `${db.toFixed(0)} dB`;
    this.#peak = 0;
  }

  clear() {
    this.#bar.value = LOWEST_DB;
    this.#text.textContent = "–";
  }
}

/** Time from a note's onset to its arrival here. */
export class Latency {
  #latest = [];

  add(secs) {
    this.#latest.push(secs);
    if (this.#latest.length > MOST_LATENCIES) this.#latest.shift();
  }

  /** Median and 95th percentile in seconds, or null before the first note. */
  get quantiles() {
    if (!this.#latest.length) return null;
    const sorted = [...this.#latest].sort((a, b) => a - b);
    return [0.5, 0.95].map((share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]);
  }

  clear() {
    this.#latest = [];
  }
}
