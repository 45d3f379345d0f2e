// The notes of a take, ordered by onset.

export class Take {
  notes = []; // {onset_secs, end_secs, note, velocity, prob}
  #noteSecs;
  #longest; // duration in seconds
  #last = new Map(); // latest note of each key

  /** @param noteSecs  duration of notes without a known end; the next onset of the same key ends them earlier */
  constructor(noteSecs) {
    this.#noteSecs = noteSecs;
    this.#longest = noteSecs;
  }

  /** The end of the last note in seconds. */
  get duration() {
    return this.notes.reduce((latest, note) => Math.max(latest, note.end_secs), 0);
  }

  /** Remove all notes and return them. */
  clear() {
    this.#last.clear();
    return this.notes.splice(0);
  }

  /** Add notes {onset_secs, note, velocity, prob} with an optional offset_secs. */
  add(notes) {
    for (const note of notes) {
      const onset = Math.max(0, note.onset_secs);
      const before = this.#last.get(note.note);
      if (before) before.end_secs = Math.min(before.end_secs, onset);
      const added = { ...note, onset_secs: onset, end_secs: note.offset_secs ?? onset + this.#noteSecs };
      this.#last.set(note.note, added);
      this.#longest = Math.max(this.#longest, added.end_secs - added.onset_secs);
      let place = this.notes.length;
      while (place > 0 && this.notes[place - 1].onset_secs > added.onset_secs) place--;
      this.notes.splice(place, 0, added);
    }
  }

  /** The notes that sound between `begin` and `end`, found by binary search. */
  *between(begin, end) {
    for (let i = this.indexAt(begin - this.#longest); i < this.notes.length && this.notes[i].onset_secs <= end; i++) {
      if (this.notes[i].end_secs >= begin) yield this.notes[i];
    }
  }

  /** Index of the first note with an onset at or after `secs`. */
  indexAt(secs) {
    let [low, high] = [0, this.notes.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.notes[middle].onset_secs < secs) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
