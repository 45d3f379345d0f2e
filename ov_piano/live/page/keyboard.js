// A keyboard whose keys light up in the colour of their velocity.

import { colours, onColours } from "./colours.js";
import { BLACK_WIDTH, centre, HIGHEST, isBlack, LOWEST, noteName, WHITE_KEYS } from "./geometry.js";
import { fitToScreen } from "./roll.js";

const BLACK_HEIGHT = 0.63;
const KEYS = Array.from({ length: HIGHEST - LOWEST + 1 }, (_, key) => LOWEST + key);
const IN_DRAWING_ORDER = [...KEYS.filter((note) => !isBlack(note)), ...KEYS.filter(isBlack)];

export class Keyboard {
  #canvas;
  #context;
  #drawn = null; // the pressed keys in the picture

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    onColours(() => (this.#drawn = null));
  }

  /** Show the keys of `notes` {note, velocity} as pressed; redraws only if something has changed. */
  draw(notes) {
    const pressed = new Map();
    for (const { note, velocity } of notes) pressed.set(note, Math.max(0, Math.min(127, Math.round(velocity))));
    const [width, height] = [this.#canvas.clientWidth, this.#canvas.clientHeight];
    const picture = [width, height, devicePixelRatio, ...[...pressed].flat()].join();
    if (picture === this.#drawn) return;
    this.#drawn = picture;
    fitToScreen(this.#canvas, this.#context);
    this.#context.fillStyle = colours["key-edge"];
    this.#context.fillRect(0, 0, width, height);
    const [whiteShade, blackShade] = this.#shades(height);
    for (const note of IN_DRAWING_ORDER) {
      this.#drawKey(note, pressed.get(note), width / WHITE_KEYS, height, isBlack(note) ? blackShade : whiteShade);
    }
  }

  #drawKey(note, velocity, white, height, shade) {
    const context = this.#context;
    const isPressed = velocity !== undefined;
    const width = isBlack(note) ? white * BLACK_WIDTH : white - Math.min(1, white / 10);
    const length = isBlack(note) ? height * BLACK_HEIGHT : height - 2;
    const x = centre(note) * white - width / 2;
    context.beginPath();
    context.roundRect(x, -6, width, 6 + length + (isPressed ? 1 : 0), Math.min(4, width / 4));
    context.fillStyle = isPressed ? colours.velocity[velocity] : colours[isBlack(note) ? "black-key" : "white-key"];
    context.fill();
    context.fillStyle = shade;
    context.fill();
    if (isBlack(note)) {
      context.strokeStyle = colours["black-key"];
      context.stroke();
    }
    if (note % 12 === 0 && white >= 14) {
      context.fillStyle = isPressed ? colours.background : colours["key-text"];
      context.font = "10px system-ui, sans-serif";
      context.textAlign = "center";
      context.fillText(noteName(note), x + width / 2, height - 8);
    }
  }

  /** The shadow of the fallboard, and the bevels at the front. */
  #shades(height) {
    const white = this.#context.createLinearGradient(0, 0, 0, height);
    for (const [place, alpha] of [[0, 0.34], [0.07, 0.06], [0.16, 0], [0.93, 0], [1, 0.16]]) {
      white.addColorStop(place, `rgb(0 0 0 / ${alpha})`);
    }
    const black = this.#context.createLinearGradient(0, 0, 0, height * BLACK_HEIGHT);
    for (const [place, alpha] of [[0, 0], [0.5, 0.1], [0.88, 0.2], [0.9, 0.04], [1, 0]]) {
      black.addColorStop(place, `rgb(255 255 255 / ${alpha})`);
    }
    return [white, black];
  }
}
