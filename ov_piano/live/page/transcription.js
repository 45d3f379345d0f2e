// Blocks of samples -> notes, over one or more streams. A stream carries continuous sound; a gap, a lost connection
// or a change of look-ahead starts a new one.

import { Stream } from "./stream.js";

const RETRY_MS = [500, 1000, 2000, 4000];

export class Transcription {
  settings; // threshold, gain_db, look_ahead_frames
  #mostBehind;
  #handlers;
  #sampleRate = 0;
  #wanted = false; // more sound is expected
  #stream = null;
  #waiting = []; // blocks {samples, time}
  #leftOut = 0; // skipped sound in seconds
  #retries = 0;
  #timer = null;
  #whenDone = [];

  /**
   * @param mostBehind  seconds of sound that may wait, here or at the server; what comes then is left out
   * @param handlers  onNotes(notes), onLogmel(start, frame, bytes), onShare(of one core), onConnection(is it there),
   *   onLeftOut(seconds), onRefused(message): the server rejected the stream
   */
  constructor(settings, mostBehind, handlers) {
    this.settings = settings;
    this.#mostBehind = mostBehind;
    this.#handlers = handlers;
  }

  /** Sound is about to come. */
  begin(sampleRate) {
    this.#sampleRate = sampleRate;
    this.#wanted = true;
    this.#retries = this.#leftOut = 0;
    this.#waiting = [];
  }

  /** A block of samples; `time` of its first one, in seconds of the take. */
  feed(samples, time) {
    const early = Math.max(0, Math.round(-time * this.#sampleRate)); // samples before the take
    if (!this.#wanted || early >= samples.length) return;
    this.#waiting.push({ samples: samples.subarray(early), time: Math.max(0, time) });
    this.#pump();
  }

  /** There is no more sound for now; resolves when the last notes are here. */
  async end() {
    this.#wanted = false;
    clearTimeout(this.#timer);
    this.#timer = null;
    if (!this.#stream) return;
    const done = new Promise((resolve) => this.#whenDone.push(resolve));
    this.#pump();
    await done;
  }

  /** Forget the sound and notes that are on their way. */
  abandon() {
    this.#waiting = [];
    this.#stream?.abandon();
    this.#stream = null;
    this.#settle();
  }

  /** Use other settings from now on. */
  adjust(settings) {
    const restarts = settings.look_ahead_frames !== this.settings.look_ahead_frames;
    this.settings = settings;
    if (restarts) this.#stream?.stop();
    else this.#stream?.adjust(settings.threshold, settings.gain_db);
  }

  #pump() {
    if (!this.#stream && !this.#timer && this.#waiting.length) this.#open();
    while (this.#stream?.state === "open" && this.#waiting.length) {
      const { samples, time } = this.#waiting[0];
      if (this.#stream.behind > this.#mostBehind || !this.#stream.continues(time)) {
        this.#stream.stop();
        break;
      }
      this.#stream.send(samples, time);
      this.#waiting.shift();
    }
    if (!this.#wanted && !this.#waiting.length) this.#stream?.stop();
    this.#trim();
  }

  #trim() {
    let waiting = this.#waiting.reduce((sum, { samples }) => sum + samples.length, 0) / this.#sampleRate;
    while (waiting > this.#mostBehind) {
      const seconds = this.#waiting.shift().samples.length / this.#sampleRate;
      waiting -= seconds;
      this.#leftOut += seconds;
    }
  }

  #open() {
    this.#stream = new Stream({ sample_rate: this.#sampleRate, ...this.settings }, {
      ...this.#handlers,
      onOpen: () => {
        this.#retries = 0;
        this.#handlers.onConnection(true);
        if (this.#leftOut) this.#handlers.onLeftOut(this.#leftOut);
        this.#leftOut = 0;
        this.#pump();
      },
      onClose: (outcome) => this.#closed(outcome),
    });
  }

  #closed({ complete, refusal }) {
    this.#stream = null;
    if (refusal) {
      this.#wanted = false;
      this.#waiting = [];
      this.#handlers.onRefused(refusal);
    } else if (!complete) {
      this.#handlers.onConnection(false);
      if (this.#wanted) {
        const delay = RETRY_MS[Math.min(this.#retries++, RETRY_MS.length - 1)];
        this.#timer = setTimeout(() => {
          this.#timer = null;
          this.#pump();
        }, delay);
      } else this.#waiting = [];
    }
    if (this.#waiting.length && !this.#timer) this.#pump();
    else if (!this.#wanted) this.#settle();
  }

  #settle() {
    for (const resolve of this.#whenDone.splice(0)) resolve();
  }
}
