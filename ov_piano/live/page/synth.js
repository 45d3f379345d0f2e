// A simple synthesiser to check a transcription by ear: eight harmonics with an exponential decay.

const RELEASE_SECS = 0.12; // time constant after the note-off
const HARMONICS = [0, 1, 0.5, 0.28, 0.17, 0.1, 0.06, 0.035, 0.02];

export class Synth {
  #context = null;
  #out = null;
  #wave = null;

  /** Call this from a click handler: browsers do not let pages play sound before that. */
  async start() {
    this.#context ??= this.#build();
    await this.#context.resume();
  }

  /** Play a MIDI note now, with its note-off after `secs`. */
  press(note, velocity, secs) {
    const now = this.#context.currentTime;
    const hz = 440 * 2 ** ((note - 69) / 12);
    const decay = 1.1 * 2 ** ((60 - note) / 24); // time constant in seconds
    const tone = new OscillatorNode(this.#context, { frequency: hz, periodicWave: this.#wave });
    const loudness = new GainNode(this.#context, { gain: 0 });
    loudness.gain.linearRampToValueAtTime(0.3 * (velocity / 127) ** 1.7, now + 0.004);
    loudness.gain.setTargetAtTime(0, now + 0.004, decay);
    loudness.gain.setTargetAtTime(0, now + secs, RELEASE_SECS);
    tone.connect(loudness).connect(this.#out);
    tone.start(now);
    tone.stop(now + secs + 8 * RELEASE_SECS);
  }

  #build() {
    const context = new AudioContext();
    this.#out = new DynamicsCompressorNode(context, { threshold: -12, ratio: 6 });
    this.#out.connect(context.destination);
    this.#wave = context.createPeriodicWave(new Float32Array(HARMONICS.length), new Float32Array(HARMONICS));
    return context;
  }
}
