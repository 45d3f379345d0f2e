// Spectrogram and notes above the keyboard: pitch to the right, time downwards, the present at the bottom.

import { colours } from "./colours.js";
import { BLACK_WIDTH, centre, isBlack, WHITE_KEYS } from "./geometry.js";

const PIXELS_A_SECOND = 70;
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

export class Roll {
  back = 0; // seconds from the bottom edge to the present
  #canvas;
  #context;
  #take;
  #spectrogram;

  constructor(canvas, take, spectrogram) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
    this.#take = take;
    this.#spectrogram = spectrogram;
  }

  get visibleSecs() {
    return this.#canvas.clientHeight / PIXELS_A_SECOND;
  }

  /** Scroll back by `seconds`. */
  scroll(seconds, now) {
    this.back = Math.max(0, Math.min(this.back + seconds, now - this.visibleSecs / 2));
  }

  draw(now) {
    const [width, height] = [this.#canvas.clientWidth, this.#canvas.clientHeight];
    const context = this.#context;
    fitToScreen(this.#canvas, context);
    const end = this.#lowerEdge(now - this.back);
    const begin = end - this.visibleSecs;
    const yAt = (secs) => (secs - begin) * PIXELS_A_SECOND;
    context.fillStyle = colours.background;
    context.fillRect(0, 0, width, height);
    this.#drawOctaves(width, height);
    this.#spectrogram.draw(context, width, begin, end, yAt);
    this.#drawSeconds(begin, end, width, yAt);
    this.#drawNotes(begin, end, width, yAt, now);
    if (end > now) {
      context.fillStyle = colours.text;
      context.fillRect(0, yAt(now), width, 1);
    }
  }

  /** The time at the bottom edge. With reduced motion the roll moves by half its height at a time. */
  #lowerEdge(secs) {
    if (!reducedMotion.matches) return secs;
    const page = this.visibleSecs / 2;
    return Math.ceil(secs / page) * page;
  }

  #drawOctaves(width, height) {
    this.#context.fillStyle = colours.line;
    for (let c = 24; c <= 108; c += 12) {
      const x = Math.round(((centre(c) - 0.5) / WHITE_KEYS) * width);
      this.#context.fillRect(x, 0, 1, height);
    }
  }

  #drawSeconds(begin, end, width, yAt) {
    const context = this.#context;
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "bottom";
    for (let secs = Math.max(0, Math.ceil(begin)); secs < end; secs++) {
      const y = Math.round(yAt(secs));
      context.fillStyle = colours.line;
      context.fillRect(0, y, width, 1);
      context.fillStyle = colours.text;
      context.fillText(clock(secs), 6, y - 1);
    }
  }

  #drawNotes(begin, end, width, yAt, now) {
    const context = this.#context;
    const white = width / WHITE_KEYS;
    context.strokeStyle = colours.background;
    for (const note of this.#take.between(begin, end)) {
      const lane = white * (isBlack(note.note) ? BLACK_WIDTH : 0.86);
      const loudness = Math.max(0, Math.min(127, Math.round(note.velocity)));
      const noteWidth = Math.max(3, lane * (0.4 + (0.6 * loudness) / 127));
      const x = centre(note.note) * white - noteWidth / 2;
      const y = yAt(note.onset_secs);
      context.fillStyle = colours.velocity[loudness];
      context.beginPath();
      context.roundRect(x, y, noteWidth, Math.max(3, yAt(Math.min(note.end_secs, Math.max(now, note.onset_secs))) - y), 3);
      context.fill();
      context.stroke();
    }
  }
}

/** Match the resolution of a canvas to the screen. */
export function fitToScreen(canvas, context) {
  const ratio = devicePixelRatio;
  const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
}

/** 75 -> "1:15" */
export function clock(secs) {
  return `${Math.floor(secs / 60)}:${String(Math.floor(secs) % 60).padStart(2, "0")}`;
}
