"""MP3 files are read to their end, whatever length their headers give."""

import itertools

import numpy as np
import pytest
import soundfile as sf

from ov_piano.data.audio import audio_info, load_mono
from ov_piano.data.mp3 import find_frames, parse_frame, repaired
from ov_piano.errors import InputError

DELAY = 576  # samples that LAME adds at the start, beyond the decoder's own 529
ID3_V1, ID3_V2 = b"TAG" + bytes(125), b"ID3\x04\x00\x00\x00\x00\x02\x00" + b"\xff\xfb\x90\x64" * 64


def encode(path, seconds=3.0, rate=44100, channels=2, mode="VARIABLE"):
    """A loud second and then a soft tone: the bit rate changes. Returns the file's bytes."""
    rng, time = np.random.default_rng(0), np.arange(round(seconds * rate)) / rate
    wave = np.where(time < 1, rng.normal(0, 0.2, len(time)), 0.2 * np.sin(2 * np.pi * 440 * time))
    sf.write(path, np.repeat(wave[:, None], channels, axis=1), rate, bitrate_mode=mode, compression_level=0.5)
    return path.read_bytes()


def without_header(mp3):
    return mp3[parse_frame(mp3, 0).end :]


@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (48000, 1), (22050, 2), (16000, 1), (8000, 1)])
@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_a_complete_header_is_trusted(tmp_path, rate, channels, mode):
    path = tmp_path / "song.mp3"
    mp3 = encode(path, rate=rate, channels=channels, mode=mode)
    frames = list(find_frames(mp3))
    assert frames[0].begin == 0
    assert frames[-1].end == len(mp3)
    assert all(before.end == after.begin for before, after in itertools.pairwise(frames))
    assert repaired(path, 0) is None
    assert audio_info(path) == (3 * rate, rate, channels)


@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (22050, 1), (8000, 1)])
def test_variable_bit_rate_without_a_header_is_read_to_its_end(tmp_path, rate, channels):
    whole, bare = tmp_path / "whole.mp3", tmp_path / "bare.mp3"
    bare.write_bytes(without_header(encode(whole, 8, rate, channels)))
    expected, found = load_mono(whole, rate), load_mono(bare, rate)
    assert sf.info(bare).frames != audio_info(bare).samples == len(found)  # else there would be nothing to repair
    np.testing.assert_array_equal(found[DELAY : DELAY + len(expected)], expected)


@pytest.mark.parametrize("between", [b"", ID3_V1 + ID3_V2])
def test_joined_files_are_read_to_the_end_of_the_last(tmp_path, between):
    single, joined = tmp_path / "single.mp3", tmp_path / "joined.mp3"
    mp3 = encode(single)
    joined.write_bytes(mp3 + between + mp3 + ID3_V1)
    expected, found = load_mono(single, 44100), load_mono(joined, 44100)
    assert len(found) == audio_info(joined).samples
    np.testing.assert_array_equal(found[: len(expected) - DELAY], expected[:-DELAY])
    second = 1152 * len(list(find_frames(mp3)))  # its own header is decoded as silence
    np.testing.assert_allclose(found[second + 2000 : second + len(expected) - 1], expected[2000:-1], atol=1e-6)


def test_joined_files_of_different_rates_are_refused(tmp_path):
    path = tmp_path / "joined.mp3"
    path.write_bytes(encode(path, rate=44100) + encode(path, rate=48000))
    with pytest.raises(InputError, match=r"joined\.mp3: joined from MP3 files of different sampling rates"):
        audio_info(path)


def test_truncated_files_are_refused(tmp_path):
    path = tmp_path / "cut.mp3"
    mp3 = encode(path)
    path.write_bytes(mp3[: len(mp3) // 2])
    with pytest.raises(InputError, match=r"cut\.mp3: truncated, \d+ of \d+ MP3 frames are missing"):
        audio_info(path)


def test_reads_of_any_size_return_the_same_bytes(tmp_path):
    path = tmp_path / "bare.mp3"
    path.write_bytes(without_header(encode(path)) + ID3_V1)
    view = repaired(path, 0)
    whole = view.read()
    assert whole.endswith(path.read_bytes()[: -len(ID3_V1)])
    for begin, size in itertools.product((0, 5, 1000, 1044, 1050, len(whole) - 3), (1, 50, 5000)):
        view.seek(begin)
        assert view.read(size) == whole[begin : begin + size]
    assert view.seek(0, 2) == len(whole)
