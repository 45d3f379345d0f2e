// The page's data flow: sound -> blocks -> transcription -> notes -> take, piano roll, keyboard, MIDI out.

import { Capture } from "./capture.js";
import { Display } from "./display.js";
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

const $ = (id) => document.getElementById(id);
const about = await (await fetch("about")).json();

const endsAreDetected = about.end_secs !== null;
const take = new Take(endsAreDetected ? Infinity : about.note_secs);
const spectrogram = new Spectrogram(about);
const roll = new Roll($("roll"), take, spectrogram, about.end_secs);
const keyboard = new Keyboard($("keyboard"));
const level = new Level($("level"), $("level-text"));
const latency = new Latency();
const [player, synth, midiOut] = [new Player(), new Synth(), new MidiOut()];
let name = "piano"; // file name for saving
let undo = null; // restores the take before the current one
let wasLost = false; // the connection to the server

const capture = new Capture(
  (samples, time) => {
    level.add(samples);
    transcription.feed(samples, time);
  },
  (reason) => act(() => finish(reason)),
);
const display = new Display({ take, roll, keyboard, capture, player, latency });

const settings = connectSettings(about, (changed) => transcription.adjust(changed));
const transcription = new Transcription(settings, about.behind_secs, {
  onNotes(notes) {
    take.add(notes);
    for (const note of notes) {
      if (capture.state === "running") latency.add(capture.time - note.onset_secs);
      midiOut.press(note.note, note.velocity, endsAreDetected ? Infinity : about.note_secs);
    }
    display.show();
  },
  onEnds(ends) {
    for (const end of ends) {
      if (take.end(end)) midiOut.end(end.note);
    }
    display.show();
  },
  onStreamEnd() {
    take.endAll(capture.time);
    midiOut.release();
  },
  onLogmel(start, frame, bytes) {
    spectrogram.add(start, frame, bytes);
    display.show();
  },
  onShare(share) {
    $("share").textContent = `${Math.round(100 * share)} % of a core`;
  },
  onConnection(isConnected) {
    if (isConnected && wasLost) display.notify("");
    wasLost = !isConnected;
    display.showConnection(isConnected);
    if (!isConnected) display.notify("Lost the connection to the server. The notes so far are safe; reconnecting …", true);
  },
  onSkipped(seconds) {
    display.notify(aboutSkipped(seconds), true);
  },
  onRefused(message) {
    act(async () => {
      await capture.stop();
      display.notify(message, true);
    });
  },
});

// Actions, run one at a time

let actions = Promise.resolve();

function act(action) {
  actions = actions.then(action).catch((error) => display.notify(error.message, true));
  actions = actions.then(() => {
    $("undo").hidden = undo === null;
    display.showButtons();
  });
}

async function startMicrophone() {
  const continues = capture.kind === "microphone" && name === "piano";
  await stop();
  await capture.startMicrophone();
  if (!continues) beginTake("piano");
  transcription.begin(capture.sampleRate);
  display.notify("Listening. Play!");
}

async function startRecording(file, bytes, title = file) {
  await stop();
  const buffer = await capture.decode(file, bytes);
  beginTake(file.replace(/\.[^.]*$/, ""));
  transcription.begin(capture.sampleRate);
  await capture.startRecording(buffer);
  display.notify(`${title}, ${clock(buffer.duration)}`);
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
  await startRecording(sample.file, await answer.arrayBuffer(), sample.title);
  $("credit").textContent = `Sample: ${sample.title}. ${sample.credit}.`;
}

async function pauseOrResume() {
  if (capture.state === "running") {
    await capture.pause();
    const skipped = await transcription.end();
    if (skipped) display.notify(aboutSkipped(skipped), true);
  } else {
    player.stop();
    transcription.begin(capture.sampleRate);
    await capture.resume();
  }
}

function aboutSkipped(seconds) {
  const why = "the server was unreachable or too slow (larger HOP_FRAMES need less processor time)";
  return `Skipped ${seconds.toFixed(1)} s of sound: ${why}.`;
}

/** Returns the seconds of sound at the end that were skipped. */
async function stop() {
  player.stop();
  midiOut.release();
  await capture.stop();
  const skipped = await transcription.end();
  level.clear();
  return skipped;
}

async function finish(reason = "") {
  const skipped = await stop();
  const notes = `${take.notes.length} notes in ${clock(capture.time)}.`;
  display.notify([reason, notes, skipped ? aboutSkipped(skipped) : ""].join(" ").trim(), skipped > 0);
}

async function playNotes() {
  if (player.isPlaying) {
    player.stop();
    midiOut.release();
    return;
  }
  if (capture.state === "running") await pauseOrResume();
  await synth.start();
  const begin = roll.back > 0 ? Math.max(0, capture.time - roll.back - roll.visibleSecs) : 0;
  roll.back = 0;
  const press = (...note) => [midiOut.press(...note), synth.press(...note)];
  player.play(take, begin, press, () => act(async () => {}));
  display.show();
}

/** Start an empty take; the old one can be restored with undo. */
function beginTake(newName) {
  transcription.abandon();
  const old = { notes: take.clear(), name, time: capture.beginTake() };
  spectrogram.clear();
  latency.clear();
  roll.back = 0;
  name = newName;
  undo = () => {
    transcription.abandon();
    const since = take.clear();
    capture.continueTake(old.time);
    spectrogram.clear();
    const later = ({ onset_secs, end_secs }) => ({ onset_secs: onset_secs + old.time, end_secs: end_secs + old.time });
    take.add([...old.notes, ...since.map((note) => ({ ...note, ...later(note) }))]);
    name = old.name;
  };
  if (old.notes.length === 0) undo = null;
}

function clear() {
  display.notify(`Cleared ${take.notes.length} notes.`);
  beginTake(name);
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
$("play").onclick = () => act(playNotes);
$("clear").onclick = () => act(clear);
$("undo").onclick = () => {
  act(() => {
    undo();
    undo = null;
  });
};
$("save-midi").onclick = () => save(`${name}.mid`, toMidi(take.until(capture.time)), "audio/midi");
$("save-csv").onclick = () => save(`${name}.csv`, toCsv(take.until(capture.time), endsAreDetected), "text/csv");

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

connectScrolling($("roll"), $("present"), roll, () => display.now, () => display.show());
connectMidiOut(midiOut, (message) => display.notify(message, true));
for (const sample of about.samples) {
  $("sample").add(new Option(sample.title, sample.file));
  const button = document.createElement("button");
  button.textContent = sample.title;
  button.onclick = () => act(() => playSample(sample));
  $("samples").append(button);
}
$("snapshot").textContent = about.snapshot;
display.showButtons();
