"""The live page in a real browser: headless Chromium, its microphone fed from a wave file."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import mido
import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from ov_piano.constants import FRAME_SECS
from ov_piano.resources import ASSETS
from ov_piano.transcription.midi_writer import to_midi
from ov_piano.transcription.streaming import DEFAULT, StreamingTranscriber

for package in ("playwright", "uvicorn", "starlette", "websockets"):
    pytest.importorskip(package, reason=f"skipping the live page tests: no {package}")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("skipping the live page tests: no Chromium", allow_module_level=True)

from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

from ov_piano.live import session  # noqa: E402
from ov_piano.live.service import Limits, Service  # noqa: E402
from tests.live_site import Site, live_site  # noqa: E402

ARGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
ARGS += " --disable-component-update --disable-sync --use-fake-device-for-media-stream"
CHEAP = replace(DEFAULT, hop_frames=24)  # a twelfth of the computing
RATE = 44_100
PATIENCE_MS = 60_000  # the machine may be busy
PATIENT = Limits(behind_secs=60)


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    """(samples,): silence, three seconds of a piano, silence."""
    music, _ = sf.read(ASSETS / "live" / "prelude_bwv846.ogg", dtype="float32", start=RATE // 2, frames=3 * RATE)
    music = 2 * music.mean(1) * np.interp(np.arange(3 * RATE), [2.8 * RATE, 3 * RATE], [1, 0])
    return np.concatenate([np.zeros(RATE // 2), music, np.zeros(RATE // 2)]).astype(np.float32)


@pytest.fixture(scope="module")
def recording(wave, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "A prelude.wav"
    sf.write(path, wave, RATE)
    return path


@pytest.fixture(scope="module")
def expected(transcriber, wave) -> pd.DataFrame:
    """The events of `StreamingTranscriber` for the recording, with their ends."""
    stream = StreamingTranscriber(transcriber, settings=CHEAP)
    found = pd.DataFrame(stream.feed(wave, RATE) + stream.flush())
    assert len(found) > 8
    return found.merge(pd.DataFrame(stream.take_ends()), on=["onset_secs", "note"], validate="1:1")


@pytest.fixture(scope="module")
def site(transcriber) -> Iterator[Site]:
    with Service(transcriber, CHEAP, PATIENT) as service, live_site(service) as running:
        yield running


@pytest.fixture(scope="module")
def browser(recording) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        args = [*ARGS.split(), f"--use-file-for-fake-audio-capture={recording}%noloop"]
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield running
        running.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Page]]:
    """Open a new page of a site; errors in its scripts fail the test."""
    contexts, errors = [], []

    def opened(site: Site, permissions: tuple[str, ...] = ("microphone",), **options) -> Page:
        contexts.append(browser.new_context(permissions=permissions, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if "Security Policy" in message.text else None)
        page.goto(site.url)
        expect(page.locator("#snapshot")).not_to_be_empty(timeout=PATIENCE_MS)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


def notes_on(page: Page) -> pd.DataFrame:
    with page.expect_download() as download:
        page.click("#save-csv")
    return pd.read_csv(StringIO(Path(download.value.path()).read_text(encoding="utf-8")))


def wait_for_more_than(count: int, page: Page) -> None:
    """Wait until the page reports more notes."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while int(page.inner_text("#count")) <= count:
        assert time.monotonic() < end
        page.wait_for_timeout(100)


def finished(page: Page) -> pd.DataFrame:
    """Wait until the recording ends; return its notes."""
    expect(page.locator("#notice")).to_contain_text(" notes in 0:", timeout=PATIENCE_MS)
    return notes_on(page)


def same_notes(found: pd.DataFrame, expected: pd.DataFrame, tolerance_secs: float) -> float:
    """F1 of onsets on the same key within the tolerance."""
    missing = list(zip(expected["onset_secs"], expected["note"], expected["velocity"], strict=True))
    total, hits = len(missing) + len(found), 0
    for onset, note, velocity in zip(found["onset_secs"], found["note"], found["velocity"], strict=True):
        near = [one for one in missing if one[1] == note and abs(one[0] - onset) <= tolerance_secs]
        if near and abs(near[0][2] - velocity) < 10:
            missing.remove(near[0])
            hits += 1
    return 2 * hits / total


def test_a_dropped_recording_becomes_the_notes_of_the_streaming_class(site, open_page, recording, expected):
    page = open_page(site)
    content = page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "A prelude.wav", { type: "audio/wav" }));
            return transfer;
        }""",
        list(recording.read_bytes()),
    )
    page.dispatch_event("#stage", "drop", {"dataTransfer": content})
    found = finished(page)
    assert same_notes(found, expected, 1.01 * FRAME_SECS) > 0.95
    lengths = [(notes["offset_secs"] - notes["onset_secs"]).sort_values() for notes in (found, expected)]
    assert np.median(lengths[0]) == pytest.approx(np.median(lengths[1]), abs=3 * FRAME_SECS)
    assert page.inner_text("#count") == str(len(found))
    expect(page.locator("#share")).to_contain_text("% of a core")
    assert float(page.inner_text("#latency").split()[0]) > 100  # ms
    assert site.service.streams == 0

    with page.expect_download() as download:
        page.click("#save-midi")
    assert download.value.suggested_filename == "A prelude.mid"
    saved, ours = mido.MidiFile(download.value.path()), to_midi(found)
    assert (saved.type, saved.ticks_per_beat) == (ours.type, ours.ticks_per_beat)
    assert [list(track) for track in saved.tracks] == [list(track) for track in ours.tracks]


def test_the_microphone_is_transcribed_while_it_listens(site, open_page, expected, monkeypatch):
    """The notes on the page are those of the streams on the server; on a busy machine the sound may have gaps."""
    streams = []

    class Recorded(StreamingTranscriber):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.events = []
            streams.append(self)

        def feed(self, *args):
            found = super().feed(*args)
            self.events += found
            return found

        def flush(self):
            found = super().flush()
            self.events += found
            return found

    monkeypatch.setattr(session, "StreamingTranscriber", Recorded)
    page = open_page(site)
    page.focus("#microphone")
    page.keyboard.press("Enter")
    expect(page.locator("#microphone")).to_have_attribute("aria-pressed", "true", timeout=PATIENCE_MS)
    wait_for_more_than(3, page)
    page.keyboard.press("Enter")
    found = finished(page)
    heard = pd.DataFrame([event for stream in streams for event in stream.events])
    assert found["note"].tolist() == heard["note"].tolist()
    np.testing.assert_allclose(found["velocity"], heard["velocity"], atol=1e-5)
    assert found["note"].isin(expected["note"]).mean() > 0.5
    assert site.service.streams == 0


def test_a_refused_microphone_is_reported(site, open_page):
    page = open_page(site, permissions=())
    page.click("#microphone")
    expect(page.locator("#notice")).to_contain_text("may not use the microphone", timeout=PATIENCE_MS)
    assert page.get_attribute("#microphone", "aria-pressed") == "false"


def test_an_unreadable_file_is_reported(site, open_page, tmp_path):
    (tmp_path / "notes.txt").write_text("do re mi")
    page = open_page(site)
    page.set_input_files("#file", tmp_path / "notes.txt")
    expect(page.locator("#notice")).to_contain_text(
        "notes.txt: this browser cannot decode the file", timeout=PATIENCE_MS
    )


def test_notes_stay_when_the_server_stops_and_continue_when_it_returns(transcriber, open_page):
    with Service(transcriber, CHEAP) as service:
        with live_site(service) as first:
            page = open_page(first)
            page.select_option("#sample", index=1)
            expect(page.locator("#count")).not_to_have_text("0", timeout=PATIENCE_MS)
        expect(page.locator("#notice")).to_contain_text("Lost the connection to the server", timeout=PATIENCE_MS)
        before = notes_on(page)
        assert len(before) > 0
        page.wait_for_timeout(4000)  # more than the page keeps of the sound
        with live_site(service, port=first.port):
            expect(page.locator("#notice")).to_contain_text("s of sound: the server", timeout=PATIENCE_MS)
            end = before["onset_secs"].max()
            wait_for_more_than(len(before), page)
            after = notes_on(page)
            assert after["onset_secs"].max() > end + 1  # the gap keeps its length
            pd.testing.assert_frame_equal(after[: len(before)], before)
            page.close()


def test_sound_that_never_reached_the_server_is_reported_at_the_stop(transcriber, open_page):
    with Service(transcriber, CHEAP) as service:
        with live_site(service) as first:
            page = open_page(first)
            page.click("#microphone")
            expect(page.locator("#connection")).to_have_text("connected", timeout=PATIENCE_MS)
        expect(page.locator("#notice")).to_contain_text("Lost the connection to the server", timeout=PATIENCE_MS)
        page.wait_for_timeout(1000)
        page.click("#microphone")
        expect(page.locator("#notice")).to_contain_text(
            re.compile(r"notes in 0:\d+\. Skipped \d+\.\d s of sound: the server")
        )
        expect(page.locator("#microphone")).to_have_attribute("aria-pressed", "false")


def test_a_connection_that_is_dead_without_saying_so_does_not_hold_the_page(site, open_page):
    page = open_page(site)
    page.evaluate("Object.defineProperty(WebSocket.prototype, 'send', { value: () => {} })")  # nothing gets through
    page.clock.install()
    page.click("#microphone")
    page.wait_for_timeout(500)
    page.click("#microphone")
    page.clock.fast_forward(21_000)
    expect(page.locator("#notice")).to_contain_text("0 notes in 0:", timeout=PATIENCE_MS)


def test_streams_beyond_the_limit_are_refused(transcriber, open_page):
    with Service(transcriber, CHEAP, replace(PATIENT, streams=1)) as service, live_site(service) as site:
        first, second = open_page(site), open_page(site)
        first.click("#microphone")
        expect(first.locator("#connection")).to_have_text("connected", timeout=PATIENCE_MS)
        second.click("#microphone")
        expect(second.locator("#notice")).to_contain_text("1 streams at the same time", timeout=PATIENCE_MS)
        expect(second.locator("#microphone")).to_have_attribute("aria-pressed", "false")
        first.click("#microphone")
        expect(first.locator("#notice")).to_contain_text(" notes in 0:", timeout=PATIENCE_MS)


def test_clear_can_be_undone_and_pause_stops_the_clock(site, open_page):
    page = open_page(site)
    page.select_option("#sample", index=2)  # a note at least every half second
    expect(page.locator("#count")).not_to_have_text("0", timeout=PATIENCE_MS)
    page.click("#pause")
    expect(page.locator("#pause")).to_have_text("Resume", timeout=PATIENCE_MS)
    before = notes_on(page)
    page.wait_for_timeout(1500)
    page.click("#clear")
    expect(page.locator("#count")).to_have_text("0")
    expect(page.locator("#save-midi")).to_be_disabled()
    page.click("#undo")
    expect(page.locator("#count")).to_have_text(str(len(before)))
    pd.testing.assert_frame_equal(notes_on(page), before)
    page.click("#pause")
    wait_for_more_than(len(before) + 4, page)
    after = notes_on(page)["onset_secs"]
    assert after.diff().max() < 1.5  # the pause is not there


def test_every_control_has_a_name_and_can_be_reached_by_key(site, open_page):
    page = open_page(site)
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        if reached[-1]:
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", reached[-1]
    wanted = ["microphone", "open", "sample", "roll", "threshold", "gain", "look-ahead"]
    assert [name for name in reached if name in wanted][: len(wanted)] == wanted
    unnamed = """[...document.querySelectorAll("button, select, input:not([hidden]), canvas, meter")].filter(
        (one) => !(one.labels?.length || one.ariaLabel || one.textContent.trim() || one.ariaHidden)
    ).map((one) => one.id)"""
    assert page.evaluate(unnamed) == []
    page.focus("#gain")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#gain-value") == "+1 dB"


def test_streams_start_with_the_threshold_of_the_server(site, open_page, transcriber):
    page = open_page(site, permissions=())
    sent = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda data: sent.append(data)))  # noqa: PLW0108
    page.select_option("#sample", index=1)
    wait_for_more_than(0, page)
    start = next(json.loads(text) for text in sent if isinstance(text, str))
    assert (start["type"], start["threshold"]) == ("start", transcriber.threshold)
    assert page.inner_text("#threshold-value") == f"{transcriber.threshold:.3f}"


def test_ten_minutes_of_notes_are_drawn_without_looking_at_all_of_them(site, open_page):
    page = open_page(site)
    looked_at = page.evaluate(
        """async () => {
            const { Take } = await import("./take.js");
            const take = new Take(0.5);
            take.add([{ onset_secs: 0, note: 20, velocity: 64, prob: 1, end_secs: Infinity }]);
            for (let i = 0; i < 6000; i++) {
                take.add([{ onset_secs: i / 10, note: 21 + (i * 7) % 88, velocity: 64, prob: 1 }]);
            }
            const notes = take.notes;
            let count = 0;
            take.notes = new Proxy(notes, { get: (all, key) => (count++, all[key]) });
            const seen = [...take.between(300, 305)];
            return [count, seen.length, ...[0, 1, -1].map((i) => seen.at(i).onset_secs)];
        }"""
    )
    assert looked_at[0] < 300
    assert looked_at[1:] == pytest.approx([56, 0, 299.6, 305])  # one note still sounds


@pytest.mark.parametrize("options", [{"color_scheme": "dark"}, {"reduced_motion": "reduce"}, {"phone": True}])
def test_the_picture_shows_notes_in_any_scheme_and_width(site, open_page, recording, options):
    size = {"width": 390, "height": 844} if options.pop("phone", False) else {"width": 1280, "height": 820}
    page = open_page(site, viewport=size, **options)
    page.set_input_files("#file", recording)
    wait_for_more_than(4, page)
    page.wait_for_timeout(300)
    coloured = page.evaluate(
        """async () => {
            const { colours } = await import("./colours.js");
            const roll = document.getElementById("roll");
            const { data } = roll.getContext("2d").getImageData(0, 0, roll.width, roll.height);
            let count = 0;
            for (let i = 0; i < data.length; i += 4) {
                count += colours.velocity.includes(`rgb(${data.slice(i, i + 3)})`);
            }
            return count;
        }"""
    )
    assert coloured > 100
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_notes_grow_until_their_end_and_midi_out_sends_it(site, open_page):
    """With a simulated MIDI output and simulated messages of the server."""
    page = open_page(site)
    sent, ends = page.evaluate(
        """async () => {
            const { Take } = await import("./take.js");
            const { MidiOut } = await import("./midi_out.js");
            const [take, sent, midiOut] = [new Take(Infinity), [], new MidiOut()];
            const port = { id: "1", name: "synthesiser", send: (bytes) => sent.push(bytes.slice(0, 2)) };
            navigator.requestMIDIAccess = async () => ({ outputs: new Map([["1", port]]) });
            await midiOut.open(() => {});
            midiOut.select("1");
            for (const [note, onset_secs] of [[60, 1], [64, 1], [60, 2]]) {
                take.add([{ note, onset_secs, velocity: 64, prob: 1 }]);
                midiOut.press(note, 64, Infinity);
            }
            const sounding = (secs) => [...take.between(secs, secs)].map(({ note }) => note);
            const before = sounding(100);
            for (const end of [[60, 1, 1.5], [64, 1, 3]]) {
                const [note, onset_secs, end_secs] = end;
                if (take.end({ note, onset_secs, end_secs })) midiOut.end(note);
            }
            const after = sounding(2.5);
            take.endAll(4);
            const ends = take.notes.map(({ note, onset_secs, end_secs }) => [note, onset_secs, end_secs]);
            return [sent, [before, after, sounding(5), ends]];
        }"""
    )
    assert sent == [[0x90, 60], [0x90, 64], [0x80, 60], [0x90, 60], [0x80, 64]]
    before, after, last, notes = ends
    assert (sorted(before), sorted(after), last) == ([60, 64], [60, 64], [])
    assert notes == [[60, 1, 1.5], [64, 1, 3], [60, 2, 4]]


def test_audio_that_does_not_start_is_reported(site, open_page):
    page = open_page(site)
    page.evaluate("() => { AudioContext.prototype.resume = () => new Promise(() => {}); }")  # as without a sound card
    page.click("#samples button")
    expect(page.locator("#notice")).to_contain_text("cannot start its audio", timeout=PATIENCE_MS)
    expect(page.locator("#microphone")).to_have_attribute("aria-pressed", "false")
