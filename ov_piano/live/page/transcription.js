// Blocks of samples -> notes. A stream carries continuous audio; after a gap, a lost connection or a change of the
// look-ahead a new one begins.

import { Stream } from "./stream.js";

const RETRY_MS = [500, 1000, 2000, 4000];
const LAST_NOTES_MS = 20_000; // to wait for them; a connection may be dead without saying so

export class Transcription {
  settings; // threshold, gain_db, look_ahead_frames
  #mostBehind;
  #handlers;
  #sampleRate = 0;
  #active = false; // more audio is expected
  #stream = null;
  #waiting = []; // blocks {samples, time} not sent yet
  #skipped = 0; // seconds of audio
  #retries = 0;
  #timer = null; // of the next attempt to connect
  #whenDone = [];

  /**
   * @param mostBehind  maximum backlog in seconds, here or on the server; older audio is skipped
   * @param handlers  onNotes(notes), onEnds(ends of notes), onLogmel(start, frame, bytes), onShare(share of one core),
   *   onConnection(isConnected), onSkipped(seconds), onStreamEnd() when no more notes and ends of a stream will come,
   *   onRefused(message) when the server ends the transcription
   */
  constructor(settings, mostBehind, handlers) {
    this.settings = settings;
    this.#mostBehind = mostBehind;
    this.#handlers = handlers;
  }

  /** Expect audio at this sampling rate. */
  begin(sampleRate) {
    this.#sampleRate = sampleRate;
    this.#active = true;
    this.#retries = this.#skipped = 0;
    this.#waiting = [];
  }

  /** Add a block of samples; `time` is that of its first sample in seconds, on the clock of the take. */
  feed(samples, time) {
    const early = Math.max(0, Math.round(-time * this.#sampleRate)); // samples before the take
    if (!this.#active || early >= samples.length) return;
    this.#waiting.push({ samples: samples.subarray(early), time: Math.max(0, time) });
    this.#pump();
  }

  /** No more audio for now; resolves when the last notes have arrived, to the seconds of audio that were skipped. */
  async end() {
    this.#active = false;
    clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#stream) {
      const done = new Promise((resolve) => this.#whenDone.push(resolve));
      const patience = setTimeout(() => this.abandon(), LAST_NOTES_MS);
      this.#pump();
      await done;
      clearTimeout(patience);
    }
    this.#skip();
    const skipped = this.#skipped;
    this.#skipped = 0;
    return skipped;
  }

  /** Discard audio that waits and notes that have not arrived. */
  abandon() {
    this.#skip();
    if (this.#stream) this.#handlers.onStreamEnd();
    this.#stream?.abandon();
    this.#stream = null;
    this.#settle();
  }

  /** Change the settings. */
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
    if (!this.#active && !this.#waiting.length) this.#stream?.stop();
    this.#trim();
  }

  #trim() {
    const total = this.#waiting.reduce((sum, { samples }) => sum + samples.length, 0) / this.#sampleRate;
    this.#skip(total - this.#mostBehind);
  }

  /** Discard at least this much of the audio that waits, the oldest first. */
  #skip(seconds = Infinity) {
    for (let skipped = 0; skipped < seconds && this.#waiting.length;) {
      const length = this.#waiting.shift().samples.length / this.#sampleRate;
      skipped += length;
      this.#skipped += length;
    }
  }

  #open() {
    this.#stream = new Stream({ sample_rate: this.#sampleRate, ...this.settings }, {
      ...this.#handlers,
      onOpen: () => {
        this.#retries = 0;
        this.#handlers.onConnection(true);
        if (this.#skipped) this.#handlers.onSkipped(this.#skipped);
        this.#skipped = 0;
        this.#stream.adjust(this.settings.threshold, this.settings.gain_db); // they may have changed meanwhile
        this.#pump();
      },
      onClose: (outcome) => this.#closed(outcome),
    });
  }

  #closed({ complete, refusal }) {
    this.#stream = null;
    this.#handlers.onStreamEnd();
    if (refusal) {
      this.#active = false;
      this.#waiting = [];
      this.#handlers.onRefused(refusal);
    } else if (!complete) {
      this.#handlers.onConnection(false);
      if (this.#active) {
        const delay = RETRY_MS[Math.min(this.#retries++, RETRY_MS.length - 1)];
        this.#timer = setTimeout(() => {
          this.#timer = null;
          this.#pump();
        }, delay);
      } else this.#skip();
    }
    if (this.#waiting.length && !this.#timer) this.#pump();
    else if (!this.#active) this.#settle();
  }

  #settle() {
    for (const resolve of this.#whenDone.splice(0)) resolve();
  }
}
