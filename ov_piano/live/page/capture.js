// Microphone or recording -> blocks of samples, on one clock that also drives the picture.
//
// A recording plays through the loudspeaker and through the same tap as the microphone, so that what is seen
// stays in step with what is heard. Pausing suspends the audio context, and with it playing, tap and clock.

const LEAD_SECS = 0.05; // for a start on time

export class Capture {
  state = "off"; // or "running", "paused"
  kind = null; // "microphone" or "recording"
  #context = null;
  #tap = null;
  #source = null;
  #microphone = null;
  #origin = 0; // context time at which the take began
  #onBlock;
  #onEnd;
  #flushed = () => {};

  /** onBlock(samples, time of the first one in seconds of the take), onEnd(): a recording is over. */
  constructor(onBlock, onEnd) {
    this.#onBlock = onBlock;
    this.#onEnd = onEnd;
  }

  get sampleRate() {
    return this.#context.sampleRate;
  }

  /** Seconds since the take began; stands still unless running. */
  get time() {
    return this.#context ? this.#context.currentTime - this.#origin : 0;
  }

  /** From now on times count from 0; returns where that is in the take so far. */
  beginTake() {
    const time = this.time;
    this.#origin += time;
    return time;
  }

  /** Take back beginTake(), which returned `time`. */
  continueTake(time) {
    this.#origin -= time;
  }

  /** Throws an Error with a message for the reader if the browser or the reader refuses. */
  async startMicrophone() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("Browsers give the microphone only to pages at localhost or with https.");
    }
    const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const microphone = await navigator.mediaDevices.getUserMedia({ audio: raw }).catch((error) => {
      throw new Error(REFUSALS[error.name] ?? `The microphone cannot be used: ${error.message}`);
    });
    await this.#prepare();
    this.#microphone = microphone;
    for (const track of microphone.getTracks()) track.onended = () => this.#onEnd("The microphone was disconnected.");
    this.#source = this.#context.createMediaStreamSource(microphone);
    await this.#run("microphone");
  }

  /** Decode an audio file; throws an Error with a message for the reader. */
  async decode(name, bytes) {
    await this.#prepare();
    try {
      return await this.#context.decodeAudioData(bytes);
    } catch {
      throw new Error(`${name}: this browser cannot read it; WAV, MP3, FLAC and Ogg usually work.`);
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
    await this.#context.resume();
    this.state = "running";
  }

  async stop() {
    if (this.state === "off") return;
    if (this.kind === "recording") this.#source.onended = null;
    this.#source.disconnect();
    if (this.kind === "recording") this.#source.stop();
    for (const track of this.#microphone?.getTracks() ?? []) track.stop();
    this.#microphone = null;
    if (this.state === "running") await this.#flush();
    await this.#context.suspend();
    this.state = "off";
  }

  async #prepare() {
    if (this.#context) return;
    const context = new AudioContext({ latencyHint: "interactive" });
    if (!context.audioWorklet) throw new Error("Browsers process sound only on pages at localhost or with https.");
    await context.audioWorklet.addModule("capture_worklet.js");
    this.#tap = new AudioWorkletNode(context, "capture", { outputChannelCount: [1] });
    this.#tap.connect(context.destination); // silent: only what leads there is processed
    this.#tap.port.onmessage = ({ data }) => {
      if (data.flushed) this.#flushed();
      else this.#onBlock(data.samples, data.time - this.#origin);
    };
    await context.suspend();
    this.#context = context;
  }

  async #run(kind) {
    this.#source.connect(this.#tap);
    await this.#context.resume();
    this.kind = kind;
    this.state = "running";
  }

  /** Resolves when the samples so far have been handed out. */
  #flush() {
    return new Promise((resolve) => {
      this.#flushed = resolve;
      this.#tap.port.postMessage("flush");
      setTimeout(resolve, 5000); // of an audio thread that has died
    });
  }
}

const REFUSALS = {
  NotAllowedError: "The browser was not allowed to use the microphone; its address bar has a setting for it.",
  NotFoundError: "This computer has no microphone that the browser can find.",
  NotReadableError: "The microphone is in use by another program.",
};
