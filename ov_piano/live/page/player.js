// Plays the notes of a take on objects with `press(note, velocity, secs)`.

const TICK_MS = 10;

export class Player {
  #timer = null;
  #begun = 0; // performance.now() at 0 s of the take

  get isPlaying() {
    return this.#timer !== null;
  }

  get time() {
    return (performance.now() - this.#begun) / 1000;
  }

  /** Play from `begin` seconds; `onEnd` is called after the last note, not after stop(). */
  play(take, begin, press, onEnd) {
    this.stop();
    this.#begun = performance.now() - 1000 * begin;
    let next = take.indexAt(begin);
    const notes = take.notes;
    const end = notes.reduce((latest, note) => Math.max(latest, note.end_secs), 0);
    this.#timer = setInterval(() => {
      for (; next < notes.length && notes[next].onset_secs <= this.time; next++) {
        press(notes[next].note, notes[next].velocity, notes[next].end_secs - notes[next].onset_secs);
      }
      if (this.time > end) {
        this.stop();
        onEnd();
      }
    }, TICK_MS);
  }

  stop() {
    clearInterval(this.#timer);
    this.#timer = null;
  }
}
