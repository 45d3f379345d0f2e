// The notes of a take, in order of onset.

export class Take {
  notes = []; // {onset_secs, end_secs, note, velocity, prob}
  #noteSecs;
  #longest;
  #last = new Map(); // latest note of each key

  /** @param noteSecs  how long a note lasts whose end is not known, unless its key is struck before */
  constructor(noteSecs) {
    this.#noteSecs = noteSecs;
    this.#longest = noteSecs;
  }

  get duration() {
    return this.notes.reduce((latest, note) => Math.max(latest, note.end_secs), 0);
  }

  /** Remove all notes and return them. */
  clear() {
    this.#last.clear();
    return this.notes.splice(0);
  }

  /** Add notes {onset_secs, note, velocity, prob, offset_secs if known}. */
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

  /** The notes that sound between `begin` and `end`, without a scan of all notes. */
  *between(begin, end) {
    for (let i = this.indexAt(begin - this.#longest); i < this.notes.length && this.notes[i].onset_secs <= end; i++) {
      if (this.notes[i].end_secs >= begin) yield this.notes[i];
    }
  }

  /** Index of the first note whose onset is not before `secs`. */
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
