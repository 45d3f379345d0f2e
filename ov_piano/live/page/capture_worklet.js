// Runs in the audio thread: collects its input into mono blocks of samples.

const BLOCK = 1024; // samples: about 20 ms

class Capture extends AudioWorkletProcessor {
  #block = new Float32Array(BLOCK);
  #filled = 0;

  constructor() {
    super();
    this.port.onmessage = () => {
      this.#post();
      this.port.postMessage({ flushed: true });
    };
  }

  process([channels]) {
    if (channels.length === 0) return true; // no input connected
    for (let i = 0; i < channels[0].length; i++) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      this.#block[this.#filled++] = sum / channels.length;
      if (this.#filled === BLOCK) this.#post(i + 1);
    }
    return true;
  }

  /** Send the block, which contains `used` samples of the current 128. */
  #post(used = 0) {
    if (this.#filled === 0) return;
    const samples = this.#block.slice(0, this.#filled);
    const time = currentTime + (used - this.#filled) / sampleRate; // time of the first sample
    this.#filled = 0;
    this.port.postMessage({ samples, time }, [samples.buffer]);
  }
}

registerProcessor("capture", Capture);
