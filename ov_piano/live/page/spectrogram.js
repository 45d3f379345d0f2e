// The log-mel spectrogram that the network receives, drawn behind the notes. Bands are aligned with the keys.

import { colours, onColours } from "./colours.js";
import { pitchAt, WHITE_KEYS } from "./geometry.js";

const WIDTH = 8 * WHITE_KEYS; // pixels per row
const ROWS = 256; // frames per tile
const MOST_TILES = 300; // half an hour
const MOST_PICTURES = 12; // tiles with a cached picture
const RANGE_DB = 60; // shown below the loudest value so far
const OPACITY = 0.9; // of the loudest value
const GAMMA = 1.5; // above 1: less of the noise floor
const FADED_BANDS = 6; // at the lower edge

export class Spectrogram {
  #tiles = new Map(); // number -> {bytes, filled: rows with data, picture, drawn: rows up to date in the picture}
  #frameSecs;
  #mels;
  #bands; // for each pixel of a row, see bandAt()
  #loudest = 0; // byte value
  #opacities = new Uint8Array(256); // by byte value

  /** Takes `frame_secs` and `mels` from the server's facts (`/about`). */
  constructor({ frame_secs, mels }) {
    this.#frameSecs = frame_secs;
    this.#mels = mels;
    this.#bands = Array.from({ length: WIDTH }, (_, x) => bandAt(pitchAt(((x + 0.5) / WIDTH) * WHITE_KEYS), mels));
    this.clear();
    onColours(() => this.#forgetPictures());
  }

  clear() {
    this.#tiles.clear();
    this.#setLoudest(100);
  }

  /** Add consecutive frames of a stream: its start in seconds, the index of the first frame, one byte per band. */
  add(start, frame, bytes) {
    const first = Math.round(start / this.#frameSecs) + frame;
    const height = this.#mels.count;
    for (let i = 0; i * height < bytes.length; i++) {
      const column = bytes.subarray(i * height, (i + 1) * height);
      const tile = this.#tile(Math.floor((first + i) / ROWS));
      const row = (first + i) % ROWS;
      tile.bytes.set(column, row * height);
      tile.drawn = Math.min(tile.drawn, row);
      tile.filled = Math.max(tile.filled, row + 1);
      const peak = column.reduce((a, b) => Math.max(a, b));
      if (peak > this.#loudest) this.#setLoudest(peak);
    }
  }

  /** Draw the frames between `begin` and `end` seconds; `yAt` maps seconds to pixels. */
  draw(context, width, begin, end, yAt) {
    const tileSecs = ROWS * this.#frameSecs;
    for (let number = Math.floor(begin / tileSecs); number * tileSecs < end; number++) {
      const tile = this.#tiles.get(number);
      if (!tile) continue;
      this.#paint(tile);
      const top = yAt(number * tileSecs);
      context.drawImage(tile.picture, 0, 0, WIDTH, ROWS, 0, top, width, yAt((number + 1) * tileSecs) - top);
    }
  }

  #tile(number) {
    let tile = this.#tiles.get(number);
    if (!tile) {
      tile = { bytes: new Uint8Array(ROWS * this.#mels.count), picture: null, drawn: 0, filled: 0 };
      this.#tiles.set(number, tile);
      if (this.#tiles.size > MOST_TILES) this.#tiles.delete(Math.min(...this.#tiles.keys()));
    }
    return tile;
  }

  #paint(tile) {
    if (!tile.picture) {
      const others = [...this.#tiles.values()].filter((other) => other.picture);
      if (others.length >= MOST_PICTURES) others[0].picture = null;
      tile.picture = new OffscreenCanvas(WIDTH, ROWS);
      tile.drawn = 0;
    }
    const rows = tile.filled - tile.drawn;
    if (rows <= 0) return;
    const image = new ImageData(WIDTH, rows);
    const [red, green, blue] = colours.spectrum;
    for (let row = 0, at = 0; row < rows; row++) {
      const base = (tile.drawn + row) * this.#mels.count;
      for (const [band, weight, strength] of this.#bands) {
        const level = tile.bytes[base + band] * (1 - weight) + tile.bytes[base + band + 1] * weight;
        image.data[at++] = red;
        image.data[at++] = green;
        image.data[at++] = blue;
        image.data[at++] = this.#opacities[Math.round(level)] * strength;
      }
    }
    tile.picture.getContext("2d").putImageData(image, 0, tile.drawn);
    tile.drawn = tile.filled;
  }

  #setLoudest(byte) {
    this.#loudest = byte;
    const range = RANGE_DB / this.#mels.db_step;
    this.#opacities = this.#opacities.map((_, level) => {
      const share = Math.max(0, Math.min(1, 1 + (level - byte) / range));
      return 255 * OPACITY * share ** GAMMA;
    });
    this.#forgetPictures();
  }

  #forgetPictures() {
    for (const tile of this.#tiles.values()) tile.picture = null;
  }
}

/** A MIDI pitch between two bands (HTK mel scale): [lower band, weight of the next, opacity: 0 below the lowest]. */
function bandAt(pitch, { count, lowest_hz, highest_hz }) {
  const mel = (hz) => 2595 * Math.log10(1 + hz / 700);
  const hz = 440 * 2 ** ((pitch - 69) / 12);
  const place = ((mel(hz) - mel(lowest_hz)) / (mel(highest_hz) - mel(lowest_hz))) * (count + 1) - 1;
  const lower = Math.max(0, Math.min(Math.floor(place), count - 2));
  return [lower, Math.max(0, Math.min(place - lower, 1)), Math.max(0, Math.min(place / FADED_BANDS, 1))];
}
