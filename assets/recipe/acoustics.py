"""Acoustics of a recording: resonance, key noise, room, microphone, codec, noise floor. Waves are float32 at ``SR``."""

import tempfile
from functools import cache

import numpy as np
import soundfile as sf
from instruments import SR
from scipy.signal import butter, fftconvolve, oaconvolve, sosfilt

CODECS = (("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"))


def rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(wave**2))) + 1e-9


@cache
def strings() -> np.ndarray:
    """Impulse response of the undamped strings: slowly decaying partials of the 88 keys."""
    rng = np.random.default_rng(0)
    t = np.arange(int(2.5 * SR), dtype=np.float32) / SR
    out = np.zeros(len(t), np.float32)
    for midi in range(21, 109):
        fundamental = 440 * 2 ** ((midi - 69) / 12)
        for partial in range(1, 5):
            hz = fundamental * partial * (1 + 0.0004 * partial**2)
            if hz < 0.45 * SR:
                decay = rng.uniform(0.5, 1.5) * np.interp(midi, (21, 108), (1.5, 0.2)) / partial**0.5
                phase = 2 * np.pi * hz * t + rng.uniform(0, 2 * np.pi)
                out += rng.uniform(0.3, 1) / partial * np.exp(-t / decay) * np.sin(phase)
    return out / np.sqrt((out**2).sum())


def with_resonance(wave: np.ndarray, pedal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add the sympathetic resonance of the strings while the pedal is down; ``pedal`` (samples,) is 0 or 1."""
    smooth = oaconvolve(pedal, np.ones(800, np.float32) / 800)[: len(wave)]  # dampers move within 50 ms
    ringing = oaconvolve(wave * smooth, strings())[: len(wave)]
    return wave + ringing * (rms(wave) / rms(ringing) * 10 ** (rng.uniform(-30, -8) / 20))


def with_key_noise(wave: np.ndarray, notes: list, rng: np.random.Generator) -> np.ndarray:
    """Add the thumps of key presses and releases: short low-frequency noise bursts."""
    thumps = np.zeros(len(wave), np.float32)
    low_pass = butter(2, rng.uniform(200, 1200), fs=SR, output="sos")
    burst = sosfilt(low_pass, rng.standard_normal(int(0.06 * SR)))
    burst *= np.exp(-np.arange(len(burst)) / (0.012 * SR))
    for onset, end, _, velocity in notes:
        for at, gain in ((onset, velocity / 127), (end, 0.3)):
            begin = int(at * SR)
            n = min(len(burst), len(wave) - begin)
            if n > 0:
                thumps[begin : begin + n] += (gain * rng.uniform(0.5, 1) * burst[:n]).astype(np.float32)
    return wave + thumps * (rms(wave) / rms(thumps) * 10 ** (rng.uniform(-50, -22) / 20))


def room(rng: np.random.Generator) -> np.ndarray:
    """Impulse response of room and microphone: direct sound at 0, reflections, a darkening tail, equaliser."""
    low = np.exp(rng.uniform(np.log(0.2), np.log(2.5)))  # reverberation times in s, shorter for higher frequencies
    mid = low * rng.uniform(0.6, 1.0)
    high = mid * rng.uniform(0.3, 0.9)
    n = int(low * SR)
    noise, t, tail = rng.standard_normal(n), np.arange(n) / SR, np.zeros(n)
    for edges, secs in (((40, 500), low), ((500, 2500), mid), ((2500, 7500), high)):
        tail += sosfilt(butter(2, edges, "bandpass", fs=SR, output="sos"), noise) * np.exp(-6.9 * t / secs)
    tail[: int(rng.uniform(0.005, 0.03) * SR)] *= 0.1
    for _ in range(rng.integers(3, 16)):  # early reflections within 60 ms
        at = int(rng.uniform(0.001, 0.06) * SR)
        if at < n:
            tail[at] += rng.choice([-1, 1]) * rng.uniform(0.05, 0.5) * np.sqrt((tail**2).sum()) * 0.5
    tail *= 10 ** (rng.uniform(-28, 5) / 20) / np.sqrt((tail**2).sum())  # from close to far microphones
    tail[0] = 1
    bands = rng.normal(0, 3.5, 9) + rng.normal(0, 1.0) * np.linspace(-4, 4, 9)  # dB at octaves, with a tilt
    hz = np.fft.rfftfreq(512, 1 / SR)
    gain_db = np.interp(np.log2(hz + 30), np.log2(31.25 * 2.0 ** np.arange(9)), bands)
    equaliser = np.roll(np.fft.irfft(10 ** (gain_db / 20)), 256) * np.hanning(512)
    return fftconvolve(tail, equaliser)[256:].astype(np.float32)


def recorded(wave: np.ndarray, rng: np.random.Generator, compression: bool = True) -> np.ndarray:
    """Record the wave in a random room at a random level, with a noise floor; sometimes compressed or lossily coded."""
    wave = oaconvolve(wave, room(rng))[: len(wave)].astype(np.float32)
    wave *= np.exp(rng.uniform(np.log(0.08), np.log(0.95))) / max(1e-6, np.abs(wave).max())
    if compression and rng.random() < 0.25:
        drive = rng.uniform(1, 3) / max(1e-6, np.abs(wave).max())
        wave = np.tanh(drive * wave) / drive
    rumble = np.cumsum(rng.standard_normal(len(wave)).astype(np.float32)) * 0.02
    hiss = rng.standard_normal(len(wave)).astype(np.float32) + rumble - np.convolve(rumble, np.ones(400) / 400, "same")
    wave = np.clip(wave + hiss * 10 ** (rng.uniform(-90, -42) / 20), -1, 1).astype(np.float32)
    return coded(wave, rng) if rng.random() < 0.2 else wave


def coded(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Encode and decode with a lossy codec."""
    form, subtype = CODECS[rng.integers(len(CODECS))]
    settings = {"format": form, "subtype": subtype, "compression_level": float(rng.uniform(0.3, 0.95))}
    with tempfile.NamedTemporaryFile(suffix=f".{form.lower()}") as target:
        with sf.SoundFile(target.name, "w", SR, 1, **settings) as file:
            for begin in range(0, len(wave), 8192):  # libsndfile puts what it gets at once on its stack
                file.write(wave[begin : begin + 8192])
        back = sf.read(target.name, dtype="float32")[0]
    return np.pad(back, (0, max(0, len(wave) - len(back))))[: len(wave)]
