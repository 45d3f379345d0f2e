// The page's data flow: sound -> blocks -> transcription -> notes -> take, piano roll, keyboard, MIDI out.

import { Capture } from "./capture.js";
import { colours, onColours } from "./colours.js";
import { save, toCsv, toMidi } from "./files.js";
import { Keyboard } from "./keyboard.js";
import { Latency, Level } from "./meters.js";
import { MidiOut } from "./midi_out.js";
import { Player } from "./player.js";
import { clock, Roll } from "./roll.js";
import { connectScrolling } from "./scrolling.js";
import { connectMidiOut, connectSettings } from "./settings.js";
import { Spectrogram } from "./spectrogram.js";
import { Synth } from "./synth.js";
import { Take } from "./take.js";
import { Transcription } from "./transcription.js";

const LARGEST_FILE = 300e6; // bytes; decoded, the file is several times as large
const READINGS_MS = 250;

const $ = (id) => document.getElementById(id);
const about = await (await fetch("about")).json();

const take = new Take(about.note_secs);
const spectrogram = new Spectrogram(about);
const roll = new Roll($("roll"), take, spectrogram);
const keyboard = new Keyboard($("keyboard"));
const level = new Level($("level"), $("level-text"));
const latency = new Latency();
const [player, synth, midiOut] = [new Player(), new Synth(), new MidiOut()];
let name = "piano"; // file name for saving
let undo = null; // restores the take before the current one

const capture = new Capture(
  (samples, time) => {
    level.add(samples);
    transcription.feed(samples, time);
  },
  (reason) => act(() => finish(reason)),
);

const settings = connectSettings(about, (changed) => transcription.adjust(changed));
const transcription = new Transcription(settings, about.behind_secs, {
  onNotes(notes) {
    take.add(notes);
    for (const note of notes) {
      if (capture.state === "running") latency.add(capture.time - note.onset_secs);
      press(note.note, note.velocity, about.note_secs);
    }
  },
  onLogmel(start, frame, bytes) {
    spectrogram.add(start, frame, bytes);
    show();
  },
  onShare(share) {
    $("share").textContent = `${Math.round(100 * share)} % of a core`;
  },
  onConnection(isThere) {
    if (isThere && $("connection").className === "off") notify("");
    $("connection").className = isThere ? "on" : "off";
    $("connection").textContent = isThere ? "connected" : "no connection";
    if (!isThere) notify("Lost the connection to the server. The notes so far are safe; reconnecting …", true);
  },
  onLeftOut(seconds) {
    notify(`Skipped ${seconds.toFixed(1)} s of sound: the server was unreachable or too slow.`, true);
  },
  onRefused(message) {
    act(async () => {
      await capture.stop();
      notify(message, true);
    });
  },
});

// Actions, run one at a time

let actions = Promise.resolve();

function act(action) {
  actions = actions.then(action).catch((error) => notify(error.message, true));
  actions = actions.then(showButtons);
}

async function startMicrophone() {
  const continues = capture.kind === "microphone" && name === "piano";
  await stop();
  await capture.startMicrophone();
  if (!continues) beginTake("piano");
  transcription.begin(capture.sampleRate);
  notify("Listening. Play!");
}

async function startRecording(title, bytes) {
  await stop();
  const buffer = await capture.decode(title, bytes);
  beginTake(title.replace(/\.[^.]*$/, ""));
  transcription.begin(capture.sampleRate);
  await capture.startRecording(buffer);
  notify(`${title}, ${clock(buffer.duration)}`);
}

async function openFile(file) {
  if (file.size > LARGEST_FILE) {
    throw new Error(`${file.name} is too large for the browser; use python -m ov_piano.transcribe AUDIO=…`);
  }
  await startRecording(file.name, await file.arrayBuffer());
}

async function playSample(sample) {
  const answer = await fetch(sample.file).catch(() => ({ ok: false }));
  if (!answer.ok) throw new Error("Cannot load the sample: the server does not respond.");
  await startRecording(sample.file, await answer.arrayBuffer());
  $("credit").textContent = `Sample: ${sample.title}. ${sample.credit}.`;
}

async function pauseOrResume() {
  if (capture.state === "running") {
    await capture.pause();
    await transcription.end();
  } else {
    player.stop();
    transcription.begin(capture.sampleRate);
    await capture.resume();
  }
}

async function stop() {
  player.stop();
  midiOut.release();
  await capture.stop();
  await transcription.end();
  level.clear();
}

async function finish(reason = "") {
  await stop();
  notify(`${reason} ${take.notes.length} notes in ${clock(capture.time)}.`.trim());
}

async function listen() {
  if (player.isPlaying) {
    player.stop();
    midiOut.release();
    return;
  }
  if (capture.state === "running") await pauseOrResume();
  await synth.start();
  const begin = roll.back > 0 ? Math.max(0, capture.time - roll.back - roll.visibleSecs) : 0;
  roll.back = 0;
  const pressAll = (...note) => [press(...note), synth.press(...note)];
  player.play(take, begin, pressAll, () => act(async () => {}));
  show();
}

/** Start an empty take; the old one can be restored with undo. */
function beginTake(newName) {
  const old = { notes: take.clear(), name, time: capture.beginTake() };
  transcription.abandon();
  spectrogram.clear();
  keyboard.release();
  latency.clear();
  roll.back = 0;
  name = newName;
  undo = () => {
    transcription.abandon();
    const since = take.clear();
    capture.continueTake(old.time);
    spectrogram.clear();
    take.add([...old.notes, ...since.map((note) => ({ ...note, onset_secs: note.onset_secs + old.time }))]);
    name = old.name;
  };
  if (old.notes.length === 0) undo = null;
}

function clear() {
  beginTake(name);
  notify("");
}

// Display

function press(...note) {
  keyboard.press(...note);
  midiOut.press(...note);
  show();
}

function notify(message, isWarning = false) {
  $("notice").className = isWarning ? "warning" : "";
  $("notice").firstElementChild.textContent = message;
}

const now = () => (player.isPlaying ? player.time : capture.time);
let frame = null;

/** Draw in the next animation frame, and repeat while something moves. */
function show() {
  frame ??= requestAnimationFrame(() => {
    frame = null;
    roll.draw(now());
    keyboard.draw();
    if (capture.state === "running" || player.isPlaying || keyboard.isPressed) show();
  });
}

function showButtons() {
  const { state, kind } = capture;
  const isListening = state !== "off" && kind === "microphone";
  $("microphone").textContent = isListening ? "Stop the microphone" : "Microphone";
  $("microphone").setAttribute("aria-pressed", isListening);
  $("pause").disabled = state === "off";
  $("pause").textContent = state === "paused" ? "Resume" : "Pause";
  $("listen").textContent = player.isPlaying ? "Stop listening" : "Listen to the notes";
  showReadings();
  show();
}

function showReadings() {
  const hasNotes = take.notes.length > 0;
  for (const id of ["listen", "clear", "save-midi", "save-csv"]) $(id).disabled = !hasNotes;
  $("undo").hidden = undo === null;
  $("invitation").hidden = hasNotes || capture.state !== "off";
  $("present").hidden = roll.back === 0;
  $("count").textContent = take.notes.length;
  const quantiles = latency.quantiles?.map((secs) => `${secs.toFixed(2)} s`);
  $("latency").textContent = quantiles ? `${quantiles[0]} (95 %: ${quantiles[1]})` : "–";
}

function showLegend() {
  const context = $("legend").getContext("2d");
  colours.velocity.forEach((colour, velocity) => {
    context.fillStyle = colour;
    context.fillRect(velocity, 0, 1, 12);
  });
}

// User input

$("microphone").onclick = () => {
  act(() => (capture.state !== "off" && capture.kind === "microphone" ? finish() : startMicrophone()));
};
$("open").onclick = () => $("file").click();
$("file").onchange = ({ target }) => {
  const [file] = target.files;
  if (file) act(() => openFile(file));
  target.value = "";
};
$("sample").onchange = ({ target }) => {
  const sample = about.samples.find(({ file }) => file === target.value);
  act(() => playSample(sample));
  target.value = "";
};
$("pause").onclick = () => act(pauseOrResume);
$("listen").onclick = () => act(listen);
$("clear").onclick = () => act(clear);
$("undo").onclick = () => {
  act(() => {
    undo();
    undo = null;
  });
};
$("save-midi").onclick = () => save(`${name}.mid`, toMidi(take.notes), "audio/midi");
$("save-csv").onclick = () => save(`${name}.csv`, toCsv(take.notes), "text/csv");

document.ondragover = (event) => {
  event.preventDefault();
  $("stage").classList.add("drop");
};
document.ondragleave = ({ relatedTarget }) => relatedTarget ?? $("stage").classList.remove("drop");
document.ondrop = (event) => {
  event.preventDefault();
  $("stage").classList.remove("drop");
  const [file] = event.dataTransfer.files;
  if (file) act(() => openFile(file));
};

connectScrolling($("roll"), $("present"), roll, now, show);
connectMidiOut(midiOut, (message) => notify(message, true));
for (const { file, title } of about.samples) $("sample").add(new Option(title, file));
$("snapshot").textContent = about.snapshot;
onColours(() => [showLegend(), show()]);
new ResizeObserver(show).observe($("roll"));
setInterval(showReadings, READINGS_MS);
showLegend();
showButtons();
