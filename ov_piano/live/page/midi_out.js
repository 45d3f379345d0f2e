// Sends notes to a synthesiser or notation program through Web MIDI.

const [NOTE_OFF, NOTE_ON] = [0x80, 0x90];

export class MidiOut {
  static isSupported = "requestMIDIAccess" in navigator;
  #access = null;
  #port = null;
  #sounding = new Map(); // note -> timer of its note-off

  /** Request access; `onChange` is called when outputs come or go. Throws an Error if access is denied. */
  async open(onChange) {
    this.#access = await navigator.requestMIDIAccess();
    this.#access.onstatechange = onChange;
  }

  /** {id, name} of each output; empty before open(). */
  get outputs() {
    return [...(this.#access?.outputs.values() ?? [])].map(({ id, name }) => ({ id, name }));
  }

  /** @param id  id of an output; null: none */
  select(id) {
    const port = id === null ? null : (this.#access.outputs.get(id) ?? null);
    if (port === this.#port) return; // another device came or went
    this.release();
    this.#port = port;
  }

  /** Note-on now, and note-off after `secs`; Infinity: at end(). */
  press(note, velocity, secs) {
    if (!this.#port) return;
    this.end(note);
    this.#port.send([NOTE_ON, note, Math.max(1, Math.min(127, Math.round(velocity)))]);
    this.#sounding.set(note, secs < Infinity ? setTimeout(() => this.end(note), 1000 * secs) : null);
  }

  /** Send the note-off of a note that sounds. */
  end(note) {
    if (!this.#sounding.has(note)) return;
    clearTimeout(this.#sounding.get(note));
    this.#sounding.delete(note);
    this.#port.send([NOTE_OFF, note, 0]);
  }

  /** End all notes. */
  release() {
    for (const note of [...this.#sounding.keys()]) this.end(note);
  }
}
