// Positions of the piano keys, in white-key widths from the left edge of A0.

export const LOWEST = 21; // MIDI note of A0
export const HIGHEST = 108; // C8
export const WHITE_KEYS = 52;
export const BLACK_WIDTH = 0.58;

const OFFSETS = [0, 0.5, 1, 1.5, 2, 3, 3.5, 4, 4.5, 5, 5.5, 6]; // C to B within an octave
const NAMES = ["C", "C♯", "D", "E♭", "E", "F", "F♯", "G", "A♭", "A", "B♭", "B"];
const CENTRES = Array.from({ length: 128 }, (_, note) => 7 * Math.floor(note / 12) + OFFSETS[note % 12] - 11.5);

export const isBlack = (note) => [1, 3, 6, 8, 10].includes(note % 12);
export const noteName = (note) => NAMES[note % 12] + (Math.floor(note / 12) - 1);
export const centre = (note) => CENTRES[note];

/** The fractional MIDI note at a position, interpolated between the centres of the keys. */
export function pitchAt(place) {
  let note = LOWEST - 1;
  while (note < HIGHEST && CENTRES[note + 1] <= place) note++;
  return note + (place - CENTRES[note]) / (CENTRES[note + 1] - CENTRES[note]);
}
