// Save the notes of a take: the same MIDI and CSV files that `python -m ov_piano.transcribe` writes.

const TICKS_A_BEAT = 960;
const BEAT_MICROSECS = 500_000; // 120 bpm
const TICK_SECS = BEAT_MICROSECS / 1e6 / TICKS_A_BEAT;

/** A type 1 MIDI file with a tempo track and a piano track: Uint8Array. */
export function toMidi(notes) {
  const changes = []; // {tick, isOn, note, velocity}
  for (const { onset_secs, end_secs, note, velocity } of notes) {
    const [begin, end] = [Math.round(onset_secs / TICK_SECS), Math.round(end_secs / TICK_SECS)];
    if (begin === end) continue;
    const loudness = Math.max(1, Math.min(127, Math.round(velocity)));
    changes.push({ tick: begin, isOn: 1, note, velocity: loudness }, { tick: end, isOn: 0, note, velocity: 0 });
  }
  changes.sort((a, b) => a.tick - b.tick || a.isOn - b.isOn || a.note - b.note); // at the same tick, note-offs first
  const piano = [0, 0xff, 0x03, 5, ...bytesOf("Piano"), 0, 0xc0, 0];
  let last = 0;
  for (const { tick, isOn, note, velocity } of changes) {
    piano.push(...variableLength(tick - last), isOn ? 0x90 : 0x80, note, velocity);
    last = tick;
  }
  const tempo = [0, 0xff, 0x51, 3, ...bigEndian(BEAT_MICROSECS, 3), 0, 0xff, 0x58, 4, 4, 2, 24, 8];
  const header = [...bytesOf("MThd"), ...bigEndian(6, 4), 0, 1, 0, 2, ...bigEndian(TICKS_A_BEAT, 2)];
  return new Uint8Array([...header, ...track(tempo), ...track(piano)]);
}

/** A table of onset_secs, offset_secs (if `withEnds`), note, velocity and prob. */
export function toCsv(notes, withEnds) {
  const names = ["onset_secs", ...(withEnds ? ["offset_secs"] : []), "note", "velocity", "prob"];
  const rows = notes.map(({ onset_secs, end_secs, note, velocity, prob }) => {
    const row = [onset_secs.toFixed(6), note, velocity.toFixed(6), prob.toFixed(6)];
    if (withEnds) row.splice(1, 0, end_secs.toFixed(6));
    return row.join(",");
  });
  return [names.join(","), ...rows, ""].join("\n");
}

/** Download a file. */
export function save(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function track(events) {
  const whole = [...events, 1, 0xff, 0x2f, 0]; // one tick later: end of track
  return [...bytesOf("MTrk"), ...bigEndian(whole.length, 4), ...whole];
}

function bytesOf(text) {
  return [...text].map((letter) => letter.charCodeAt(0));
}

function bigEndian(value, bytes) {
  return Array.from({ length: bytes }, (_, i) => (value >> (8 * (bytes - 1 - i))) & 0xff);
}

/** Seven bits per byte; the eighth is set in all but the last byte. */
function variableLength(value) {
  const bytes = [value & 0x7f];
  while ((value >>= 7)) bytes.unshift((value & 0x7f) | 0x80);
  return bytes;
}
