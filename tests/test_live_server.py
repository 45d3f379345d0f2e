"""The live server from its clients' side: results, limits, and robustness against faulty clients."""

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_piano.cli import run
from ov_piano.constants import FRAME_SECS
from ov_piano.errors import InputError
from ov_piano.live import session
from ov_piano.live.__main__ import ConfDef, main
from ov_piano.live.protocol import DB_STEP, LOWEST_DB, MESSAGE_BYTES, parse_samples, parse_text
from ov_piano.live.server import SAMPLES
from ov_piano.live.service import Limits, Service
from ov_piano.transcription.streaming import DEFAULT, StreamingTranscriber
from ov_piano.transcription.transcriber import Transcriber

pytest.importorskip("websockets")
pytest.importorskip("uvicorn")

from websockets.exceptions import ConnectionClosedError

from tests.live_site import START, Heard, Site, answers, live_site, stream

ROOT = Path(__file__).parents[1]
CHEAP = replace(DEFAULT, hop_frames=24)  # a twelfth of the computing


@pytest.fixture(scope="module")
def music() -> tuple[np.ndarray, int]:
    """Three seconds of a piano."""
    wave, rate = sf.read(SAMPLES / "prelude_bwv846.ogg", dtype="float32", frames=3 * 44_100)
    return wave.mean(1), rate


@pytest.fixture(scope="module")
def site(transcriber):
    with Service(transcriber, CHEAP, Limits(streams=3)) as service, live_site(service, {"studio.local"}) as running:
        yield running


def blocks_of(wave: np.ndarray, size: int) -> list[np.ndarray]:
    return [wave[begin : begin + size] for begin in range(0, len(wave), size)]


def expected_of(transcriber: Transcriber, wave: np.ndarray, rate: int, **settings) -> list[tuple]:
    """The events of `StreamingTranscriber`."""
    return expected_notes_and_ends(transcriber, wave, rate, **settings)[0]


def expected_notes_and_ends(transcriber, wave: np.ndarray, rate: int, **settings) -> tuple[list[tuple], list[tuple]]:
    direct = StreamingTranscriber(transcriber, settings=CHEAP, **settings)
    events = direct.feed(wave, rate) + direct.flush()
    return [tuple(event)[:4] for event in events], [tuple(end) for end in direct.take_ends()]


def assert_same(notes: list[tuple], expected: list[tuple]) -> None:
    np.testing.assert_allclose(np.array(notes), np.array(expected), atol=1e-4)


def wait_until_free(site: Site, left: int = 0) -> None:
    """Wait until all but ``left`` streams have ended."""
    end = time.monotonic() + 20
    while site.service.streams > left and time.monotonic() < end:
        time.sleep(0.02)
    assert site.service.streams == left


# What a client gets


@pytest.mark.parametrize("size", [1024, 44_100])
def test_notes_are_those_of_the_streaming_class(site, transcriber, music, size):
    heard = stream(site, blocks_of(music[0], size), music[1], gain_db=3)
    expected, ends = expected_notes_and_ends(transcriber, *music, gain_db=3)
    assert len(expected) == len(ends) > 4
    assert_same(heard.notes, expected)
    assert_same(sorted(heard.ends), sorted(ends))
    assert (heard.stopped, heard.error) == (True, None)


def test_columns_are_those_of_the_streaming_class(site, transcriber, music):
    heard = stream(site, blocks_of(music[0], 1024), music[1])
    direct, columns = StreamingTranscriber(transcriber, settings=CHEAP), []
    for block in blocks_of(music[0], 1024):
        direct.feed(block, music[1])
        columns += list(direct.take_logmel().T.numpy())
    direct.flush()
    columns += list(direct.take_logmel().T.numpy())
    received = LOWEST_DB + DB_STEP * np.array(heard.columns, float)
    assert received.shape == np.array(columns).shape
    assert np.abs(received - columns).max() <= DB_STEP / 2 + 0.01
    assert received.std() > 5


def test_progress_tells_how_far_and_at_what_cost(site, music, monkeypatch):
    monkeypatch.setattr(session, "PROGRESS_SECS", 0.02)  # so that even a fast machine reports several times
    heard = stream(site, blocks_of(music[0], 1024), music[1])
    secs = [report["heard_secs"] for report in heard.progress]
    assert secs == sorted(secs)
    assert all(0 < report["core_share"] < 1.2 for report in heard.progress)
    assert 0 < secs[0] < secs[-1] <= 4


def test_settings_change_on_the_way(site, transcriber, music):
    begin, end = np.array_split(music[0], 2)
    adjust = json.dumps({"type": "adjust", "threshold": START["threshold"], "gain_db": 0})
    heard = stream(site, [*blocks_of(begin, 4410), adjust, *blocks_of(end, 4410)], music[1], threshold=1)
    expected = [event for event in expected_of(transcriber, *music) if event[0] > 1.5]
    late = [note for note in heard.notes if note[0] > 1.5]
    assert len(late) > 3
    assert_same(late, expected)
    assert len(heard.notes) <= len(late) + 2  # of the moment of the change


def test_streams_at_the_same_time_do_not_mix(transcriber, music):
    rate = music[1]
    waves = [np.roll(music[0], 8000 * i)[: 2 * rate] for i in range(8)]
    with Service(transcriber, CHEAP, Limits(streams=8)) as service, live_site(service) as site:
        with ThreadPoolExecutor(8) as pool:
            heard = list(pool.map(lambda wave: stream(site, blocks_of(wave, 4410), rate), waves))
        assert service.streams == 0
    expected = [expected_of(transcriber, wave, rate) for wave in waves]
    assert len({len(events) for events in expected}) > 1
    for mine, events in zip(heard, expected, strict=True):
        assert_same(mine.notes, events)


def test_a_client_that_sends_at_once_is_slowed_down_and_loses_nothing(site, transcriber, music):
    wave = np.tile(music[0], 4)
    heard = stream(site, blocks_of(wave, 40_000), music[1])
    assert_same(heard.notes, expected_of(transcriber, wave, music[1]))
    assert abs(len(heard.columns) * FRAME_SECS - len(wave) / music[1]) < 2 * FRAME_SECS


def test_a_busy_server_processes_several_messages_at_once(site, monkeypatch):
    heard = []

    class Slow(StreamingTranscriber):
        def feed(self, samples: np.ndarray, _: float) -> list:
            time.sleep(0.02)
            heard.append(samples)
            return []

    monkeypatch.setattr(session, "StreamingTranscriber", Slow)
    sent = [np.full(100, 0.001 * number, np.float32) for number in range(60)]
    assert stream(site, sent, 8000).stopped
    assert len(heard) < len(sent) / 2
    np.testing.assert_array_equal(np.concatenate(heard), np.concatenate(sent))


# What a client cannot do

SECOND = np.zeros(8000, "<f4").tobytes()


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        (["nonsense"], "expected a JSON object"),
        (["[" * 5000], "expected a JSON object"),
        (["[1]"], "expected a JSON object"),
        (['{"type": "open"}'], "the type start"),
        ([SECOND], "expected start"),
        (['{"type": "stop"}'], "expected start"),
        ([{"sample_rate": 7999}], "sample_rate: expected a number from 8000"),
        ([{"sample_rate": 44100.5}], "whole number"),
        ([{"sample_rate": "44100"}], "sample_rate: expected a number"),
        ([{"threshold": True}], "threshold: expected a number"),
        ([{"gain_db": -13}], "gain_db: expected a number from -12 to 12"),
        ([{"look_ahead_frames": 1e308}], "look_ahead_frames"),
        ([{}, {}], "start only once"),
        ([{}, SECOND + b"1"], "32-bit floats"),
        ([{}, SECOND * 2], "at most 1 s"),
        ([{}, np.full(9, np.nan, "<f4").tobytes()], "NaN"),
        ([{}, '{"type": "adjust", "threshold": NaN, "gain_db": 0}'], "threshold"),
    ],
)
def test_malformed_messages_are_refused(site, messages, error):
    with site.connect() as client:
        for message in messages:
            is_start = isinstance(message, dict)
            client.send(json.dumps(START | {"sample_rate": 8000} | message) if is_start else message)
        told = [json.loads(answer) for answer in answers(client) if isinstance(answer, str)]
    assert told[-1]["type"] == "error"
    assert error in told[-1]["message"]
    assert client.close_code == 4000
    wait_until_free(site)


@settings(max_examples=50)
@given(
    st.one_of(st.text(), st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
)
def test_any_text_is_a_message_or_refused(text):
    with pytest.raises(InputError):
        parse_text(text)


@given(st.binary(max_size=40))
def test_any_bytes_are_samples_or_refused(data):
    try:
        samples = parse_samples(data, 8000)
    except InputError:
        return
    assert samples.tobytes() == data
    assert np.isfinite(samples).all()


def test_a_message_that_is_too_large_ends_the_connection(site):
    with site.connect() as client:
        with suppress(ConnectionClosedError):  # the server may close before the last, empty fragment
            client.send([bytes(MESSAGE_BYTES), bytes(1)])
        assert list(answers(client)) == []
    assert client.close_code == 1009
    wait_until_free(site)


def test_a_stream_beyond_the_limit_is_refused(site):
    with site.connect() as first, site.connect() as second, site.connect() as third:
        for client in (first, second, third):
            client.send(json.dumps(START | {"sample_rate": 8000}))
            assert json.loads(client.recv())["type"] == "ready"
        with site.connect() as fourth:
            told = [json.loads(answer) for answer in answers(fourth)]
        assert "3 streams at the same time" in told[-1]["message"]
        assert fourth.close_code == 4000
        first.close()
        wait_until_free(site, left=2)
        assert stream(site, [np.zeros(8000)], 8000).stopped
    wait_until_free(site)


@pytest.mark.parametrize("limits", [Limits(idle_secs=0.2), Limits(stream_secs=0.2)])
def test_a_silent_or_endless_client_is_sent_away(transcriber, limits):
    with Service(transcriber, CHEAP, limits) as service, live_site(service) as site, site.connect() as client:
        client.send(json.dumps(START | {"sample_rate": 8000}))
        told = [json.loads(answer) for answer in answers(client)]
        assert told[0] == {"type": "ready"}
        expected = "No audio received" if limits.idle_secs < 1 else "Streams are limited to"
        assert expected in told[-1]["message"]


def test_a_client_that_vanishes_leaves_its_place(site, music):
    with site.connect() as client:
        client.send(json.dumps(START | {"sample_rate": music[1]}))
        assert json.loads(client.recv()) == {"type": "ready"}
        for block in blocks_of(music[0], 4410):
            client.send(block.tobytes())
        assert site.service.streams == 1
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.socket.shutdown(socket.SHUT_RDWR)  # without goodbye
    wait_until_free(site)
    assert stream(site, blocks_of(music[0], 4410), music[1]).stopped


def test_a_client_that_does_not_read_is_left(transcriber):
    from ov_piano.live.session import converse  # noqa: PLC0415

    class Deaf:
        async def accept(self) -> None: ...
        async def receive(self) -> dict:
            return {"type": "websocket.receive", "text": json.dumps(START | {"sample_rate": 8000})}

        async def send_text(self, _: str) -> None:
            await asyncio.sleep(100)

    with Service(transcriber, CHEAP, Limits(send_secs=0.05)) as service:
        asyncio.run(asyncio.wait_for(converse(Deaf(), service), 20))
        assert service.streams == 0


# Who may talk to it


def request(site: Site, path: str = "/", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


@pytest.mark.parametrize(
    ("host", "origin", "let_in"),
    [
        ("127.0.0.1:{port}", None, True),
        ("localhost:{port}", "http://localhost:{port}", True),
        ("[::1]:{port}", "http://[::1]:{port}", True),
        ("192.168.0.7:{port}", "http://192.168.0.7:{port}", True),
        ("studio.local:{port}", "https://studio.local:{port}", True),
        ("rebound.example:{port}", "http://rebound.example:{port}", False),
        ("127.0.0.1.example:{port}", None, False),
        ("user@localhost:{port}", None, False),
        ("localhost:{port}/x", None, False),
        ("", None, False),
        ("localhost:{port}", "http://site.example", False),
        ("localhost:{port}", "http://localhost:1", False),
        ("localhost:{port}", "null", False),
    ],
)
def test_only_this_site_is_let_in(site, host, origin, let_in):
    headers = {"Host": host.format(port=site.port)}
    if origin:
        headers["Origin"] = origin.format(port=site.port)
    assert request(site, **headers).status == (200 if let_in else 403)
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    answer = request(site, "/stream", **headers, **upgrade, **{"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="})
    assert answer.status == (101 if let_in else 403)
    answer.close()


@pytest.mark.parametrize(
    "path", ["/../../../etc/passwd", "/%2e%2e/__main__.py", "/page/main.js", "//etc/passwd", "/main.js%00", "/stream"]
)
def test_paths_outside_the_page_are_refused(site, path):
    assert request(site, path).status in (403, 404)


def test_pages_may_load_nothing_from_elsewhere(site):
    for path in ("/", "/main.js", "/goldberg_aria.ogg", "/about", "/nothing"):
        headers = request(site, path).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_names_only_files_that_are_there(site):
    page = ROOT / "ov_piano" / "live" / "page"
    named = {"/about"}
    for file in page.iterdir():
        text = file.read_text(encoding="utf-8")
        named |= {"/" + name for name in re.findall(r"""(?:from |src=|href=|addModule\()"(?:\./)?([\w.]+)\"""", text)}
    named |= {"/" + sample["file"] for sample in json.loads(request(site, "/about").read())["samples"]}
    assert len(named) > 18
    assert {name: request(site, name).status for name in named} == dict.fromkeys(named, 200)


# The command


def refused(capsys, *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        run(main, ConfDef, args)
    assert stop.value.code == 2
    return capsys.readouterr().err.strip()


def test_each_setting_reaches_the_service(monkeypatch, capsys):
    calls = []

    def service(*args) -> None:
        calls.append(args)
        raise InputError("enough")

    monkeypatch.setattr("ov_piano.live.__main__.Service", service)
    texts = "PORT=0 THRESHOLD=0.4 LOOK_AHEAD_FRAMES=4 HOP_FRAMES=5 MAX_STREAMS=3 MAX_MINUTES=2 WORKERS=6"
    assert "enough" in refused(capsys, *texts.split())
    ((transcriber, settings, limits, workers),) = calls
    assert (transcriber.threshold, settings.look_ahead_frames, settings.hop_frames) == (0.4, 4, 5)
    assert (limits.streams, limits.stream_secs, workers) == (3, 120, 6)


def test_what_cannot_be_served_is_one_line(capsys, tmp_path):
    (tmp_path / "broken.torch").write_bytes(b"nothing")
    line = refused(capsys, "PORT=0", f"SNAPSHOT_INPATH={tmp_path / 'broken.torch'}")
    assert line.startswith("error: ")
    assert "broken.torch" in line
    assert "\n" not in line
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"PORT={port}: cannot listen" in refused(capsys, f"PORT={port}")
    assert "HOST=no.such.host.invalid" in refused(capsys, "HOST=no.such.host.invalid")
    assert "PORT" in refused(capsys, "PORT=70000")


def test_command_prints_its_address_serves_and_stops(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-u", "-m", "ov_piano.live", "PORT=0"]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=tmp_path
    ) as server:
        printed = next(line for line in server.stdout if line.startswith("open "))
        port = int(printed.split("127.0.0.1:")[1].split("/")[0])
        service = None
        with Site(service, port).connect() as client:
            client.send(json.dumps(START | {"sample_rate": 8000}))
            assert json.loads(client.recv())["type"] == "ready"
            server.send_signal(signal.SIGINT)
            rest, errors = server.communicate(timeout=30)
    assert (server.returncode, errors) == (0, "")
    assert rest.strip() == "stopped"


def test_heard_checks_the_order_of_columns():
    with pytest.raises(AssertionError):
        Heard(mels=250).take(b"\1\0\0\0" + bytes(250))
