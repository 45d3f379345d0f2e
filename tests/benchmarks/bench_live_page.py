"""Drawing the live page after ten minutes of notes and spectrogram, against drawing it empty."""

import shutil
from statistics import median

from ov_piano.live.service import Service
from ov_piano.transcription.transcriber import Transcriber
from tests.live_site import live_site

ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FRAMES = 200
DRAW = """async ([seconds, frames]) => {
    const { Take } = await import("./take.js");
    const { Spectrogram } = await import("./spectrogram.js");
    const { Roll } = await import("./roll.js");
    const about = await (await fetch("about")).json();
    const [take, spectrogram] = [new Take(0.5), new Spectrogram(about)];
    const column = Uint8Array.from({ length: about.mels.count }, (_, i) => (i * 37) % 255);
    for (let frame = 0; frame * about.frame_secs < seconds; frame++) spectrogram.add(0, frame, column);
    for (let i = 0; i < 10 * seconds; i++) {
        take.add([{ onset_secs: i / 10, note: 21 + (i * 37) % 88, velocity: (i * 13) % 128, prob: 1 }]);
    }
    const roll = new Roll(document.getElementById("roll"), take, spectrogram);
    const [drawing, between] = [[], []];
    let last = await new Promise(requestAnimationFrame);
    for (let i = 0; i < frames; i++) {
        const begin = performance.now();
        roll.draw(Math.max(0, seconds - 10) + (begin / 1000) % 8);
        drawing.push(performance.now() - begin);
        const now = await new Promise(requestAnimationFrame);
        between.push(now - last);
        last = now;
    }
    return [drawing, between];
}"""


def benchmarks() -> dict[str, dict]:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 -- not needed by the other benchmarks

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with (
        Service(Transcriber(device="cpu")) as service,
        live_site(service) as site,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGS)
        page = browser.new_page(viewport={"width": 1280, "height": 820})
        page.goto(site.url)
        full, empty = (page.evaluate(DRAW, [seconds, FRAMES]) for seconds in (600, 0))
        browser.close()
    return {
        f"live_page_{name}_ms": {
            "ours": median(ours),
            "plain": median(plain),
            "ratio": median(plain) / median(ours),
            "unit": unit,
        }
        for name, ours, plain, unit in (
            ("draw", full[0], empty[0], "ms to draw a frame, 10 minutes of notes (plain: none)"),
            ("frame", full[1], empty[1], "ms from frame to frame, 10 minutes of notes (plain: none)"),
        )
    }
