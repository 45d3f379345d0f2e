// A keyboard whose keys light up in the colour of their velocity.

import { colours, onColours } from "./colours.js";
import { BLACK_WIDTH, centre, HIGHEST, isBlack, LOWEST, noteName, WHITE_KEYS } from "./geometry.js";
import { fitToScreen } from "./roll.js";

const BLACK_HEIGHT = 0.62;

export class Keyboard {
  #canvas;
  #context;
  #pressed = new Map(); // note -> {velocity, timer}
  #drawn = false;

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    const redraw = () => {
      this.#drawn = false;
      this.draw();
    };
    onColours(redraw);
    new ResizeObserver(redraw).observe(canvas);
  }

  press(note, velocity, secs) {
    clearTimeout(this.#pressed.get(note)?.timer);
    const timer = setTimeout(() => {
      this.#pressed.delete(note);
      this.#drawn = false;
    }, 1000 * secs);
    this.#pressed.set(note, { velocity, timer });
    this.#drawn = false;
  }

  release() {
    for (const { timer } of this.#pressed.values()) clearTimeout(timer);
    this.#pressed.clear();
    this.#drawn = false;
  }

  get isPressed() {
    return this.#pressed.size > 0;
  }

  /** Redraw if something has changed. */
  draw() {
    if (this.#drawn) return;
    this.#drawn = true;
    fitToScreen(this.#canvas, this.#context);
    const context = this.#context;
    const [white, height] = [this.#canvas.clientWidth / WHITE_KEYS, this.#canvas.clientHeight];
    const keys = Array.from({ length: HIGHEST - LOWEST + 1 }, (_, key) => LOWEST + key);
    context.clearRect(0, 0, white * WHITE_KEYS, height);
    for (const note of [...keys.filter((key) => !isBlack(key)), ...keys.filter(isBlack)]) {
      const width = white * (isBlack(note) ? BLACK_WIDTH : 1);
      const x = centre(note) * white - width / 2;
      const pressed = this.#pressed.get(note);
      context.fillStyle = pressed
        ? colours.velocity[Math.max(0, Math.min(127, Math.round(pressed.velocity)))]
        : colours[isBlack(note) ? "black-key" : "white-key"];
      context.strokeStyle = colours["key-edge"];
      context.beginPath();
      context.roundRect(x, -4, width, 4 + height * (isBlack(note) ? BLACK_HEIGHT : 1) - 1, Math.min(3, width / 4));
      context.fill();
      context.stroke();
      if (note % 12 === 0 && white >= 14) {
        context.fillStyle = pressed ? colours.background : colours["black-key"];
        context.font = "10px system-ui, sans-serif";
        context.textAlign = "center";
        context.fillText(noteName(note), x + width / 2, height - 6);
      }
    }
  }
}
