// The notes of a take, ordered by onset.

export class Take {
  notes = []; // {onset_secs, end_secs, note, velocity, prob}; end_secs is Infinity while a note sounds
  #noteSecs;
  #longest = 0; // duration of a note in seconds, without those that sound
  #last = new Map(); // latest note of each key

  /** @param noteSecs  duration of notes that are added without an end; Infinity: until end(), or the key's next note */
  constructor(noteSecs) {
    this.#noteSecs = noteSecs;
  }

  /** Remove all notes and return them. */
  clear() {
    this.#last.clear();
    return this.notes.splice(0);
  }

  /** Add notes {onset_secs, note, velocity, prob} with an optional end_secs. */
  add(notes) {
    for (const note of notes) {
      const onset = Math.max(0, note.onset_secs);
      const before = this.#last.get(note.note);
      if (before) this.#shorten(before, onset);
      const added = { ...note, onset_secs: onset, end_secs: note.end_secs ?? onset + this.#noteSecs };
      this.#last.set(note.note, added);
      this.#shorten(added, added.end_secs);
      let place = this.notes.length;
      while (place > 0 && this.notes[place - 1].onset_secs > added.onset_secs) place--;
      this.notes.splice(place, 0, added);
    }
  }

  /** End a note that was added before; returns whether its key no longer sounds. */
  end({ note, onset_secs, end_secs }) {
    const onset = Math.max(0, onset_secs);
    for (let i = this.indexAt(onset); this.notes[i]?.onset_secs === onset; i++) {
      if (this.notes[i].note === note) this.#shorten(this.notes[i], end_secs);
    }
    return this.#last.get(note)?.end_secs < Infinity;
  }

  /** End all notes that still sound. */
  endAll(secs) {
    for (const note of this.#last.values()) this.#shorten(note, Math.max(note.onset_secs, secs));
  }

  /** The notes as they are to be saved at `now`: those that still sound end there. */
  until(now) {
    return this.notes.map((note) => ({ ...note, end_secs: Math.min(note.end_secs, Math.max(note.onset_secs, now)) }));
  }

  /** The notes that sound between `begin` and `end`, found by binary search. */
  *between(begin, end) {
    const first = begin - this.#longest;
    for (const note of this.#last.values()) if (note.onset_secs < first && note.end_secs === Infinity) yield note;
    for (let i = this.indexAt(first); i < this.notes.length && this.notes[i].onset_secs <= end; i++) {
      if (this.notes[i].end_secs > begin) yield this.notes[i];
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

  #shorten(note, end) {
    note.end_secs = Math.min(note.end_secs, end);
    if (note.end_secs < Infinity) this.#longest = Math.max(this.#longest, note.end_secs - note.onset_secs);
  }
}
