// Spectrogram and notes above the keyboard: pitch to the right, time downwards, the present at the bottom.

import { colours } from "./colours.js";
import { BLACK_WIDTH, centre, HIGHEST, isBlack, LOWEST, WHITE_KEYS } from "./geometry.js";

const PIXELS_A_SECOND = 70;
const NARROWEST = 5; // pixels of a note
const UNSURE = 0.4; // opacity where a note may have ended
const BLACK_KEYS = Array.from({ length: HIGHEST - LOWEST + 1 }, (_, key) => LOWEST + key).filter(isBlack);
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

export class Roll {
  back = 0; // seconds from the bottom edge to the present
  #canvas;
  #context;
  #take;
  #spectrogram;
  #endLag;

  /** @param endLag  seconds after which the end of a note is known */
  constructor(canvas, take, spectrogram, endLag) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
    this.#take = take;
    this.#spectrogram = spectrogram;
    this.#endLag = endLag;
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
    this.#drawLanes(width, height);
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

  #drawLanes(width, height) {
    const white = width / WHITE_KEYS;
    this.#context.fillStyle = colours.lane;
    for (const note of BLACK_KEYS) {
      this.#context.fillRect((centre(note) - BLACK_WIDTH / 2) * white, 0, BLACK_WIDTH * white, height);
    }
    this.#context.fillStyle = colours.line;
    for (let c = 24; c <= HIGHEST; c += 12) this.#context.fillRect(Math.round((centre(c) - 0.5) * white), 0, 1, height);
  }

  #drawSeconds(begin, end, width, yAt) {
    const context = this.#context;
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "bottom";
    for (let secs = Math.max(0, Math.ceil(begin)); secs < end; secs++) {
      const y = Math.round(yAt(secs));
      context.fillStyle = colours.line;
      context.fillRect(0, y, width, 1);
      context.fillStyle = colours.quiet;
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
      const noteWidth = Math.max(NARROWEST, lane * (0.4 + (0.6 * loudness) / 127));
      const x = centre(note.note) * white - noteWidth / 2;
      const y = yAt(note.onset_secs);
      const bar = (until) => {
        context.beginPath();
        context.roundRect(x, y, noteWidth, Math.max(3, yAt(Math.max(until, note.onset_secs)) - y), 3);
      };
      const sounds = note.end_secs === Infinity;
      context.fillStyle = colours.velocity[loudness];
      bar(sounds ? now - this.#endLag : Math.min(note.end_secs, now));
      context.fill();
      if (sounds) {
        bar(now);
        context.globalAlpha = UNSURE;
        context.fill();
        context.globalAlpha = 1;
      }
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
