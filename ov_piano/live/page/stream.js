// One WebSocket: continuous audio to the server, notes back. protocol.py describes the messages.

const LARGEST_GAP = 0.01; // seconds between blocks that count as continuous

export class Stream {
  state = "connecting"; // later "open", "stopping", "closed"
  #socket;
  #rate;
  #start = null; // time of the first sample in seconds, on the clock of the take
  #sent = 0; // samples
  #heard = 0; // seconds that the server has processed
  #complete = false; // all notes have arrived
  #refusal = null; // the server's reason for closing the connection
  #handlers;

  /**
   * @param settings  sample_rate, threshold, gain_db, look_ahead_frames
   * @param handlers  onOpen(), onNotes(notes), onEnds(ends of notes), onLogmel(start, frame, bytes),
   *   onShare(share of one core), onClose({complete, refusal})
   */
  constructor(settings, handlers) {
    this.#rate = settings.sample_rate;
    this.#handlers = handlers;
    const url = new URL("stream", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    this.#socket = new WebSocket(url);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onopen = () => this.#say({ type: "start", ...settings });
    this.#socket.onmessage = ({ data }) => (typeof data === "string" ? this.#read(JSON.parse(data)) : this.#show(data));
    this.#socket.onclose = () => {
      this.state = "closed";
      this.#handlers.onClose({ complete: this.#complete, refusal: this.#refusal });
    };
  }

  /** Whether a block that starts at `time` continues the audio sent so far. */
  continues(time) {
    return this.#start === null || Math.abs(time - this.#start - this.#sent / this.#rate) < LARGEST_GAP;
  }

  /** Seconds of audio that the server has not processed yet. */
  get behind() {
    return this.#sent / this.#rate - this.#heard;
  }

  send(samples, time) {
    this.#start ??= time;
    this.#socket.send(samples);
    this.#sent += samples.length;
  }

  adjust(threshold, gain_db) {
    if (this.state === "open") this.#say({ type: "adjust", threshold, gain_db });
  }

  /** End the stream: the server sends the remaining notes, then the connection closes. */
  stop() {
    if (this.state === "open") this.#say({ type: "stop" });
    else if (this.state === "connecting") {
      this.#complete = true; // nothing was sent
      this.#socket.close();
    }
    this.state = "stopping";
  }

  /** Close at once and ignore further messages. */
  abandon() {
    this.#handlers = new Proxy({}, { get: () => () => {} });
    this.#socket.close();
  }

  #say(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #read(message) {
    if (message.type === "ready") {
      this.state = "open";
      this.#handlers.onOpen();
    } else if (message.type === "notes") {
      const inTake = (note) => ({ ...note, onset_secs: this.#start + note.onset_secs });
      this.#handlers.onNotes(message.notes.map(inTake));
    } else if (message.type === "ends") {
      const inTake = ({ note, onset_secs, offset_secs }) =>
        ({ note, onset_secs: this.#start + onset_secs, end_secs: this.#start + offset_secs });
      this.#handlers.onEnds(message.ends.map(inTake));
    } else if (message.type === "progress") {
      this.#heard = message.heard_secs;
      this.#handlers.onShare(message.core_share);
    } else if (message.type === "stopped") this.#complete = true;
    else if (message.type === "error") this.#refusal = message.message;
  }

  #show(data) {
    const frame = new DataView(data).getUint32(0, true);
    this.#handlers.onLogmel(this.#start, frame, new Uint8Array(data, 4));
  }
}
