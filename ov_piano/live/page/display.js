// What the page shows: the moving pictures, the readings, the buttons' states and the notice.

import { colours, onColours } from "./colours.js";

const READINGS_MS = 250;

const $ = (id) => document.getElementById(id);

export class Display {
  #parts;
  #frame = null;

  /** @param parts  {take, roll, keyboard, capture, player, latency} */
  constructor(parts) {
    this.#parts = parts;
    onColours(() => [showLegend(), this.show()]);
    new ResizeObserver(() => this.show()).observe($("roll"));
    setInterval(() => this.#showReadings(), READINGS_MS);
    showLegend();
  }

  /** The time to show, in seconds of the take. */
  get now() {
    const { player, capture } = this.#parts;
    return player.isPlaying ? player.time : capture.time;
  }

  /** Draw in the next animation frame, and repeat while something moves. */
  show() {
    const { take, roll, keyboard, capture, player } = this.#parts;
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      roll.draw(this.now);
      keyboard.draw(take.between(this.now, this.now));
      if (capture.state === "running" || player.isPlaying) this.show();
    });
  }

  /** Show a message above the piano roll. */
  notify(message, isWarning = false) {
    $("notice").className = isWarning ? "warning" : "";
    $("notice").firstElementChild.textContent = message;
  }

  showConnection(isConnected) {
    $("connection").className = isConnected ? "on" : "off";
    $("connection").textContent = isConnected ? "connected" : "no connection";
  }

  showButtons() {
    const { capture, player } = this.#parts;
    const isListening = capture.state !== "off" && capture.kind === "microphone";
    $("microphone").textContent = isListening ? "Stop" : "Microphone";
    $("microphone").setAttribute("aria-pressed", isListening);
    $("pause").disabled = capture.state === "off";
    $("pause").textContent = capture.state === "paused" ? "Resume" : "Pause";
    $("play").textContent = player.isPlaying ? "Stop notes" : "Play notes";
    this.#showReadings();
    this.show();
  }

  #showReadings() {
    const { take, roll, capture, latency } = this.#parts;
    const hasNotes = take.notes.length > 0;
    for (const id of ["play", "clear", "save-midi", "save-csv"]) $(id).disabled = !hasNotes;
    $("invitation").hidden = hasNotes || capture.state !== "off";
    $("present").hidden = roll.back === 0;
    $("count").textContent = take.notes.length;
    const quantiles = latency.quantiles?.map((secs) => `${Math.round(1000 * secs)} ms`);
    $("latency").textContent = quantiles ? `${quantiles[0]} (95 %: ${quantiles[1]})` : "–";
  }
}

function showLegend() {
  const context = $("legend").getContext("2d");
  colours.velocity.forEach((colour, velocity) => {
    context.fillStyle = colour;
    context.fillRect(velocity, 0, 1, 12);
  });
}
