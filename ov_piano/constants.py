"""Constants, derived from a few primitives.

The spectrogram parameters are the defaults of the preprocessing scripts; later steps read them
from the HDF5 file names.
"""

SAMPLE_RATE = 16_000  # Hz
WINDOW = 2048  # samples, STFT window and FFT size
HOP = 384  # samples
FRAME_SECS = HOP / SAMPLE_RATE  # 0.024 s

MELS = 250  # of the network of 2022
MELS_2023 = 229
MEL_FMIN = 50  # Hz
MEL_FMAX = 8000  # Hz
TOP_DB = 80.0  # dB, floor of the log-mel below the recording's maximum

MIDI_VALUES = 128  # MIDI notes, velocities and control values are 0-127
LOWEST_NOTE = 21  # MIDI note of key 0 (A0)
KEYS = 88
HIGHEST_NOTE = LOWEST_NOTE + KEYS - 1  # 108 (C8)

# Rows of a piano roll, shape (ROLL_ROWS, frames)
ONSET_ROWS = slice(0, MIDI_VALUES)
FRAME_ROWS = slice(MIDI_VALUES, 2 * MIDI_VALUES)
SUSTAIN_ROW = 2 * MIDI_VALUES
SOFT_ROW = SUSTAIN_ROW + 1
SOSTENUTO_ROW = SUSTAIN_ROW + 2
ROLL_ROWS = SUSTAIN_ROW + 3  # 259
KEY_ROWS = slice(LOWEST_NOTE, HIGHEST_NOTE + 1)  # onset rows of the 88 keys
SOUNDING_KEY_ROWS = slice(FRAME_ROWS.start + LOWEST_NOTE, FRAME_ROWS.start + HIGHEST_NOTE + 1)  # frame rows of the keys
MIDI_SUFFIXES = (".mid", ".midi")
