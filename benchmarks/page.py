"""What the page weighs and how smoothly it moves, in a real browser on a real server.

    python -m benchmarks.page            measure; print the tables; keep them in benchmarks/results
    python -m benchmarks.page --quick    one visit each, 24 tokens; keep nothing

A first visit has an empty browser cache, a second one that of the first. The first picture is there when Plotly has
drawn it. Then a run is watched whose method has five pictures, all of them made visible: how many updates a second
reached text and pictures, and how many frames a second the browser still painted meanwhile, and when nothing moved.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from typing import Any

import msgspec
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, sync_playwright

import engines
from benchmarks.command import Benchmark
from benchmarks.report import Setting, table
from benchmarks.served import served

METHOD = "token-recycling"
PICTURES = 5
PROMPT = "Tell me a long story about a fox and a hen."
FIRST_PICTURE = ".page-play .canvas .main-svg"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
TALL = ViewportSize(width=1366, height=4000)
"""Five pictures do not fit on a screen, and those that nobody sees are not drawn."""

COUNT = """() => {
  const seen = window.counted = { frames: 0, texts: 0, pictures: {}, since: performance.now() };
  const frame = () => { seen.frames++; requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
  const text = document.querySelector('.tokens');
  new MutationObserver(() => seen.texts++).observe(text, { childList: true, subtree: true });
  const react = window.Plotly.react;
  window.Plotly.react = (node, ...rest) => {
    const id = [...document.querySelectorAll('.js-plotly-plot')].indexOf(node);
    seen.pictures[id] = (seen.pictures[id] ?? 0) + 1;
    return react(node, ...rest);
  };
}"""
CLEAR = "() => Object.assign(window.counted, { frames: 0, texts: 0, pictures: {}, since: performance.now() })"
READ = "() => ({ ...window.counted, seconds: (performance.now() - window.counted.since) / 1000 })"


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """Opening the page once."""

    bytes: int
    """Over the network, compressed as they came."""
    requests: int
    first_picture: float
    """Seconds from asking for the page."""


class Motion(msgspec.Struct, frozen=True, kw_only=True):
    """The page over some seconds; all per second."""

    frames: float
    texts: float
    pictures: list[float]
    """Drawings of each picture that was drawn at all, most first."""
    seconds: float


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """The whole measurement."""

    setting: Setting
    browser: str
    cold: list[Visit]
    warm: list[Visit]
    still: Motion
    moving: Motion


def measure(setting: Setting, *, model: str, visits: int, tokens: int) -> Opened:
    """Visits, then one run."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with served({"DECODING_PLAYGROUND_MODEL": model}) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        _ready(browser, server.address)
        cold, warm = [], []
        for number in range(visits):
            print(f"visit {number + 1} of {visits}", file=sys.stderr)
            context = browser.new_context(viewport={"width": 1366, "height": 768})
            cold.append(visit(context, server.address))
            warm.append(visit(context, server.address))
            context.close()
        still, moving = _watched(browser, server.address, tokens)
        return Opened(
            setting=setting,
            browser=f"Chromium {browser.version}",
            cold=cold,
            warm=warm,
            still=still,
            moving=moving,
        )


def _ready(browser: Browser, address: str) -> None:
    """Waits for the model, so that loading it does not slow anything down."""
    page = browser.new_page()
    page.goto(address)
    # Its chip then says the precision.
    page.wait_for_function("document.querySelector('.chip.model')?.textContent.split('·').length > 2", timeout=180_000)
    page.close()


def visit(context: BrowserContext, address: str) -> Visit:
    """Opens the page in a new tab and waits for its first picture."""
    page = context.new_page()
    network = context.new_cdp_session(page)
    loaded: list[Any] = []
    network.on("Network.loadingFinished", lambda told: loaded.append(told))
    network.send("Network.enable")
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_selector(FIRST_PICTURE, timeout=120_000)
    first_picture = time.perf_counter() - began
    page.wait_for_timeout(1000)
    page.close()
    return Visit(
        bytes=int(sum(one["encodedDataLength"] for one in loaded)), requests=len(loaded), first_picture=first_picture
    )


def _watched(browser: Browser, address: str, tokens: int) -> tuple[Motion, Motion]:
    page = browser.new_page(viewport=TALL)
    page.goto(address)
    page.wait_for_selector(FIRST_PICTURE)
    page.evaluate(COUNT)
    page.wait_for_timeout(2000)
    still = _motion(page)
    page.click("#method .chosen")
    page.locator(f"#method .option[data-id='{METHOD}']").click()
    page.fill("#set-max_new_tokens", str(tokens))
    page.fill("#prompt textarea", PROMPT)
    page.click("#run")
    # Well under way: what is drawn before the first tokens is drawn once.
    page.wait_for_function(
        "document.querySelector('.page-play .scrubber.live') && "
        "document.querySelectorAll('.page-play .tok[data-index]').length > 8",
        timeout=60_000,
    )
    page.evaluate(CLEAR)
    page.wait_for_selector(".page-play .scrubber:not(.live)", timeout=600_000)
    moving = _motion(page)
    page.close()
    return still, moving


def _motion(page: Page) -> Motion:
    counted = page.evaluate(READ)
    seconds = counted["seconds"]
    return Motion(
        frames=counted["frames"] / seconds,
        texts=counted["texts"] / seconds,
        pictures=sorted((many / seconds for many in counted["pictures"].values()), reverse=True),
        seconds=seconds,
    )


def tables(result: Opened) -> str:
    """Visits, then motion, in Markdown."""
    visits = table(
        ["", "kB", "requests", "s to the first picture, median", "lowest – highest"],
        [
            [
                name,
                f"{statistics.median(one.bytes for one in visits) / 1000:,.0f}",
                f"{statistics.median(one.requests for one in visits):.0f}",
                f"{statistics.median(one.first_picture for one in visits):.2f}",
                f"{min(one.first_picture for one in visits):.2f} – {max(one.first_picture for one in visits):.2f}",
            ]
            for name, visits in (("first visit", result.cold), ("with a warm cache", result.warm))
        ],
    )
    pictures = result.moving.pictures[:PICTURES]
    motion = table(
        ["per second", "nothing runs", f"a run, {len(pictures)} pictures"],
        [
            ["frames painted", f"{result.still.frames:.0f}", f"{result.moving.frames:.0f}"],
            ["updates of the text", "–", f"{result.moving.texts:.1f}"],
            ["drawings of each picture", "–", f"{pictures[-1]:.1f} – {pictures[0]:.1f}" if pictures else "–"],
        ],
    )
    note = f"Server and browser ({result.browser}) on the same machine. {result.setting.sentence()}"
    return f"{visits}\n\n{motion}\n\n{note}"


def _measured(chosen: argparse.Namespace) -> Opened:
    visits, tokens = (1, 24) if chosen.quick else (chosen.rounds, chosen.max_new_tokens)
    setting = Setting.of(engines.load(chosen.model), max_new_tokens=tokens, rounds=visits, quick=chosen.quick)
    return measure(setting, model=chosen.model, visits=visits, tokens=tokens)


BENCHMARK = Benchmark(
    "page",
    __doc__ or "",
    Opened,
    _measured,
    tables,
    quick="one visit each, 24 tokens",
    numbers={"rounds": (5, "visits of each kind"), "max-new-tokens": (256, "")},
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
