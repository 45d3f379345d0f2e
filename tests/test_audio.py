"""Log-mels: golden arrays, torchaudio as the reference, and many kinds of audio files."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
import torchaudio

from ov_piano.data.audio import LogMel, audio_info, load_mono, logmel_frames, resample
from ov_piano.errors import InputError
from ov_piano.settings import LogMelSettings

GOLDEN = np.load(Path(__file__).parent / "golden" / "logmel.npz")


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_logmel_equals_the_golden_one(tmp_path, rate):
    path = tmp_path / "golden.wav"
    sf.write(path, GOLDEN[f"pcm_{rate}"], rate, subtype="PCM_16")
    wave = load_mono(path)
    np.testing.assert_allclose(wave, GOLDEN[f"wave_{rate}"], atol=1e-5)
    np.testing.assert_allclose(LogMel()(wave), GOLDEN[f"logmel_{rate}"], atol=1e-2)


@pytest.mark.parametrize(("rate", "seconds"), [(44100, 23.456), (22050, 10.0), (96000, 10.00007), (11025, 0.2)])
def test_blockwise_logmel_equals_torchaudio_on_the_whole_file(tmp_path, rate, seconds):
    noise = np.random.default_rng(0).normal(0, 0.1, (int(seconds * rate), 2)).astype(np.float32)
    noise *= np.linspace(0, 1, len(noise), dtype=np.float32)[:, None] ** 6  # so that the floor matters
    sf.write(tmp_path / "noise.wav", noise, rate, subtype="FLOAT")
    mono = torch.from_numpy(noise).mean(1)
    expected = torchaudio.transforms.Resample(rate, 16000)(mono)
    wave = load_mono(tmp_path / "noise.wav")
    torch.testing.assert_close(wave, expected, atol=1e-6, rtol=0)
    mel = torchaudio.transforms.MelSpectrogram(16000, 2048, hop_length=384, f_min=50, f_max=8000, n_mels=250)
    expected = torchaudio.transforms.AmplitudeToDB("power", top_db=80)(mel(expected))
    logmel = LogMel()(wave)
    torch.testing.assert_close(logmel, expected, atol=1e-2, rtol=0)
    assert logmel.shape == (250, logmel_frames(len(noise), rate))
    assert logmel.min() == logmel.max() - 80


@pytest.mark.parametrize(("window", "hop"), [(1023, 100), (512, 512)])
def test_logmel_frames_predicts_the_number_of_frames(window, hop):
    settings = LogMelSettings(window=window, hop=hop, mels=20)
    for samples in (1600, 1601, 3999):
        logmel = LogMel(settings)(torch.rand(samples))
        assert logmel.shape[1] == logmel_frames(samples, 16000, settings)


@pytest.mark.parametrize(
    ("subtype", "rate", "channels"), [("PCM_U8", 16000, 1), ("PCM_24", 96000, 6), ("DOUBLE", 8000, 2)]
)
def test_channels_rates_and_sample_formats_are_read(tmp_path, subtype, rate, channels):
    time = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    sf.write(tmp_path / "tone.wav", np.repeat(tone[:, None], channels, 1), rate, subtype=subtype)
    wave = load_mono(tmp_path / "tone.wav").numpy()
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(wave[200:-200], expected[200:-200], atol=0.01)


def test_logmel_of_silence_is_the_floor(tmp_path):
    sf.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    np.testing.assert_array_equal(LogMel()(load_mono(tmp_path / "silent.wav")), np.full((250, 42), -100, np.float32))


def test_wave_files_without_a_length_are_read_to_their_end(tmp_path):
    path = tmp_path / "streamed.wav"
    sf.write(path, np.ones(1000) * 0.5, 16000)
    contents = bytearray(path.read_bytes())
    contents[40:44] = b"\xff" * 4
    path.write_bytes(contents)
    assert audio_info(path) == (1000, 16000, 1)


def test_compressed_formats_are_read(tmp_path):
    tone = 0.5 * np.sin(np.arange(32000) / 7)
    for name in ("tone.flac", "tone.ogg"):
        sf.write(tmp_path / name, tone, 16000)
        np.testing.assert_allclose(load_mono(tmp_path / name), tone, atol=0.05)


def _spoil(path: Path, case: str) -> None:
    samples = np.full(5000, 0.1, np.float32)
    if case == "samples that are NaN":
        samples[4000] = np.nan
    if case == "far beyond full scale":
        samples[1] = 1e30
    if case == "no simple ratio":
        sf.write(path, samples, 44099)
        return
    if case == "no such file":
        return
    sf.write(path, samples[: 0 if case == "contains no samples" else None], 16000, subtype="FLOAT")
    contents = path.read_bytes()
    if case == "empty file":
        contents = b""
    if case == "not an audio file":
        contents = b"MThd" + contents
    if case == "truncated":
        contents = contents[:-1000]
    path.write_bytes(contents)


@pytest.mark.parametrize(
    "case",
    [
        "no such file",
        "empty file",
        "contains no samples",
        "truncated",
        "not an audio file",
        "samples that are NaN",
        "far beyond full scale",
        "no simple ratio",
    ],
)
def test_unusable_audio_is_refused_with_path_and_reason(tmp_path, case):
    path = tmp_path / "bad.wav"
    _spoil(path, case)
    with pytest.raises(InputError, match=case) as error:
        load_mono(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("length", [0x7FFFF000, 0x7FFFEFFE, 0x80000000, 0xFFFFFFFF])
def test_wave_files_written_to_a_pipe_are_read_to_their_end(tmp_path, length):
    """They have a placeholder for the length: from sox (whole blocks), arecord and ffmpeg."""
    path, samples = tmp_path / "piped.wav", np.random.default_rng(0).uniform(-1, 1, 5000)
    sf.write(path, samples, 16000, subtype="PCM_16")
    contents = path.read_bytes()
    assert contents[36:40] == b"data"
    expected = load_mono(path)
    path.write_bytes(contents[:40] + struct.pack("<I", length) + contents[44:])
    torch.testing.assert_close(load_mono(path), expected, rtol=0, atol=0)


def test_truncated_aiff_is_refused(tmp_path):
    path = tmp_path / "cut.aiff"
    sf.write(path, np.random.default_rng(0).uniform(-1, 1, 5001), 16000, subtype="PCM_24")
    assert len(load_mono(path)) == 5001
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"cut\.aiff: truncated, 1000 of "):
        load_mono(path)


def test_truncated_flac_is_refused(tmp_path):
    path = tmp_path / "cut.flac"
    sf.write(path, np.random.default_rng(0).uniform(-1, 1, 50000), 16000)
    path.write_bytes(path.read_bytes()[:40000])
    with pytest.raises(InputError, match=r"cut\.flac"):
        load_mono(path)


def test_audio_shorter_than_half_a_window_is_refused():
    with pytest.raises(InputError, match="more than 1024 samples, found 1024"):
        LogMel()(torch.zeros(1024))


@pytest.mark.parametrize("samples", [1025, 2047, 2048, 2049, 3000, 50_000])
@pytest.mark.parametrize("block", [100, 1024, 5000, 100_000])
def test_logmel_of_joined_blocks_equals_that_of_the_whole(samples, block):
    wave = torch.from_numpy(np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32))
    whole = LogMel()(wave)
    joined = torch.cat(list(LogMel().in_blocks(wave.split(block))), dim=1)
    torch.testing.assert_close(joined.clamp(min=float(joined.max()) - 80), whole, atol=1e-3, rtol=0)


def test_logmel_in_blocks_shorter_than_half_a_window_is_refused():
    with pytest.raises(InputError, match="expected more than 1024 samples, found 1024"):
        list(LogMel().in_blocks(torch.zeros(1024).split(100)))


@pytest.mark.parametrize("rate", [44100, 48000, 8000, 11025])
@pytest.mark.parametrize("samples", [1, 2, 440, 441, 442, 10_001])
@pytest.mark.parametrize("block", [1, 97, 441, 20_000])
def test_resampling_of_joined_blocks_equals_that_of_the_whole_to_the_last_sample(rate, samples, block):
    wave = torch.from_numpy(np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32))
    if samples / block > 1000:
        wave = wave[:500]
    whole = torchaudio.transforms.Resample(rate, 16000)(wave)
    joined = torch.cat(list(resample(wave.split(block), len(wave), rate)))
    torch.testing.assert_close(joined, whole, atol=1e-6, rtol=0)
