"""Drawing the live page with ten minutes of notes and spectrogram behind it, against drawing it empty.

60 frames a second leave 16.7 ms for a frame. Headless Chromium draws in software, so the CPU time of all its processes
includes what a graphics processor does elsewhere.
"""

import shutil
from statistics import median

from ov_piano.live.service import Service
from ov_piano.transcription.transcriber import Transcriber
from tests.live_site import live_site

ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FRAMES = 300
PREPARE = """async (seconds) => {
    const [{ Take }, { Spectrogram }, { Roll }, { Keyboard }] = await Promise.all(
        ["take", "spectrogram", "roll", "keyboard"].map((name) => import(`./${name}.js`))
    );
    const about = await (await fetch("about")).json();
    const [take, spectrogram] = [new Take(1.5), new Spectrogram(about)];
    const roll = new Roll(document.getElementById("roll"), take, spectrogram, 0.5);
    const keyboard = new Keyboard(document.getElementById("keyboard"));
    const column = (frame) => Uint8Array.from({ length: about.mels.count }, (_, i) => (i * 37 + frame * 11) % 255);
    let [heard, played] = [0, 0];
    const hear = (now) => {
        for (; heard * about.frame_secs < now; heard++) spectrogram.add(0, heard, column(heard));
        for (; played < 10 * now; played++) {
            const onset_secs = played / 10;
            take.add([{ onset_secs, note: 21 + (played * 37) % 88, velocity: (played * 13) % 128, prob: 1 }]);
        }
    };
    hear(seconds);
    window.draw = async (frames) => {
        const [drawing, between] = [[], []];
        let last = await new Promise(requestAnimationFrame);
        for (let i = 0; i < frames; i++) {
            const begin = performance.now();
            const now = seconds + i / 60;
            if (seconds) hear(now);
            roll.draw(now);
            keyboard.draw(take.between(now, now));
            drawing.push(performance.now() - begin);
            const next = await new Promise(requestAnimationFrame);
            between.push(next - last);
            last = next;
        }
        return [drawing, between];
    };
    await window.draw(30);
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
        system = browser.new_browser_cdp_session()

        def cpu_secs() -> float:
            return sum(process["cpuTime"] for process in system.send("SystemInfo.getProcessInfo")["processInfo"])

        def measure(seconds: float) -> tuple[float, float, float]:
            page = browser.new_page(viewport={"width": 1280, "height": 820})
            page.goto(site.url)
            page.evaluate(PREPARE, seconds)
            before = cpu_secs()
            drawing, between = page.evaluate("(frames) => window.draw(frames)", FRAMES)
            cpu = cpu_secs() - before
            page.close()
            return median(drawing), 1000 * cpu / FRAMES, median(between)

        full, empty = measure(600), measure(0)
        browser.close()
    return {
        f"live_page_{name}_ms": {"ours": ours, "plain": plain, "ratio": plain / ours, "unit": unit}
        for name, ours, plain, unit in zip(
            ("draw", "cpu", "frame"),
            full,
            empty,
            (
                "ms of the page's drawing code per frame, 10 minutes of notes (plain: none)",
                "ms of CPU time of the browser per frame, drawing in software (plain: no notes)",
                "ms from frame to frame (plain: no notes)",
            ),
            strict=True,
        )
    }
