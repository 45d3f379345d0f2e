// Microphone or recording -> blocks of samples, on the clock that also drives the display.
//
// A recording plays through the loudspeaker and the same tap as the microphone, so that display and sound stay in
// sync. Pausing suspends the audio context and thereby playback, tap and clock.

const LEAD_SECS = 0.05; // schedule playback this far ahead
const PATIENCE_MS = 5000;

export class Capture {
  state = "off"; // or "running", "paused"
  kind = null; // "microphone" or "recording"
  #context = null;
  #tap = null;
  #source = null;
  #microphone = null;
  #origin = 0; // context time at the start of the take
  #onBlock;
  #onEnd;
  #flushed = () => {};

  /** onBlock(samples, time of the first sample in the take in seconds); onEnd() is called after a recording. */
  constructor(onBlock, onEnd) {
    this.#onBlock = onBlock;
    this.#onEnd = onEnd;
  }

  get sampleRate() {
    return this.#context.sampleRate;
  }

  /** Seconds since the start of the take; stops unless running. */
  get time() {
    return this.#context ? this.#context.currentTime - this.#origin : 0;
  }

  /** Start a new take at 0 s; returns the current time of the old one. */
  beginTake() {
    const time = this.time;
    this.#origin += time;
    return time;
  }

  /** Undo beginTake(), which returned `time`. */
  continueTake(time) {
    this.#origin -= time;
  }

  /** Throws an Error with a message for the user if access is denied. */
  async startMicrophone() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("Browsers allow the microphone only on localhost or over https.");
    }
    await this.#prepare(); // first: if it fails, no microphone is left on
    const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const microphone = await navigator.mediaDevices.getUserMedia({ audio: raw }).catch((error) => {
      throw new Error(REFUSALS[error.name] ?? `The microphone cannot be used: ${error.message}`);
    });
    this.#microphone = microphone;
    for (const track of microphone.getTracks()) track.onended = () => this.#onEnd("The microphone was disconnected.");
    this.#source = this.#context.createMediaStreamSource(microphone);
    await this.#run("microphone");
  }

  /** Decode an audio file; throws an Error with a message for the user. */
  async decode(name, bytes) {
    await this.#prepare();
    try {
      return await this.#context.decodeAudioData(bytes);
    } catch {
      throw new Error(`${name}: this browser cannot decode the file; try WAV, MP3, FLAC or Ogg.`);
    }
  }

  /** Play a decoded file; the take begins with its first sample. */
  async startRecording(buffer) {
    this.#source = new AudioBufferSourceNode(this.#context, { buffer });
    this.#source.connect(this.#context.destination);
    this.#source.onended = () => this.#onEnd();
    await this.#run("recording");
    this.#origin = this.#context.currentTime + LEAD_SECS;
    this.#source.start(this.#origin);
  }

  async pause() {
    await this.#flush();
    await this.#context.suspend();
    this.state = "paused";
  }

  async resume() {
    await this.#startClock();
    this.state = "running";
  }

  async stop() {
    if (this.state === "off") return;
    if (this.kind === "recording") this.#source.onended = null;
    this.#disconnect();
    if (this.kind === "recording") this.#source.stop();
    if (this.state === "running") await this.#flush();
    await this.#context.suspend();
    this.state = "off";
  }

  #disconnect() {
    this.#source.disconnect();
    for (const track of this.#microphone?.getTracks() ?? []) track.stop();
    this.#microphone = null;
  }

  async #prepare() {
    if (this.#context) return;
    const context = new AudioContext({ latencyHint: "interactive" });
    if (!context.audioWorklet) throw new Error("Browsers allow audio processing only on localhost or over https.");
    await context.audioWorklet.addModule("capture_worklet.js");
    this.#tap = new AudioWorkletNode(context, "capture", { outputChannelCount: [1] });
    this.#tap.connect(context.destination); // silent: unconnected nodes are not processed
    this.#tap.port.onmessage = ({ data }) => {
      if (data.flushed) this.#flushed();
      else this.#onBlock(data.samples, data.time - this.#origin);
    };
    await context.suspend();
    this.#context = context;
  }

  async #run(kind) {
    this.#source.connect(this.#tap);
    try {
      await this.#startClock();
    } catch (error) {
      this.#disconnect();
      throw error;
    }
    this.kind = kind;
    this.state = "running";
  }

  /** Browsers wait for ever without an audio output, or if they do not let the page play sound. */
  async #startClock() {
    let timer;
    const tooLong = new Promise((_, reject) => {
      const reason = "The browser cannot start its audio: check the sound output, and that this page may play sound.";
      timer = setTimeout(() => reject(new Error(reason)), PATIENCE_MS);
    });
    await Promise.race([this.#context.resume(), tooLong]).finally(() => clearTimeout(timer));
  }

  /** Resolves after all samples so far have been passed to onBlock. */
  #flush() {
    return new Promise((resolve) => {
      this.#flushed = resolve;
      this.#tap.port.postMessage("flush");
      setTimeout(resolve, PATIENCE_MS); // in case the audio thread has died
    });
  }
}

const REFUSALS = {
  NotAllowedError: "This page may not use the microphone. Allow it in the browser's address bar, then try again.",
  NotFoundError: "The browser found no microphone.",
  NotReadableError: "The microphone is in use by another program.",
};
