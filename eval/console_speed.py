"""Does the console keep up with a fast answer? `python -m eval.console_speed [--seconds 600] [--rate 1500]`.

A model that writes Markdown at so many tokens a second answers in the chat of a Chromium without a window. Measured are
the first paint; frames in the browser's own trace (how many it began, drew and dropped) and as the page sees them (the
time between calls of requestAnimationFrame); long tasks; the heap of the scripts, and the memory of the page's whole
process that it shares with no other (private pages, of Linux's smaps_rollup), with its slope after the first minute;
and how soon Stop ends the model's work.
reports/console_speed.json. Ten minutes and a quiet machine: whatever else runs takes frames away.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.core.messages import ChatRequest
from apps.core.ports import Readiness
from apps.tests.support.browser import BINARY, Browser, Page, chromium
from apps.tests.support.serving import serving_models

REPORT = Path("reports/console_speed.json")
PAINTS = 5
LOOK_SECONDS = 10
NAME = "paced"
PARAGRAPH = "The **answer** goes on with words, `code` and [links](https://example.org/), as answers of models do. "
LIST = "\n\n- one thing\n- another thing\n- a third one, which is longer\n\n"
CODE = "\n\n```python\n" + "def area(width, height):\n    return width * height\n" * 12 + "```\n\n"
TABLE = "\n\n| river | length |\n|---|---|\n| Nile | 6,650 km |\n| Amazon | 6,400 km |\n\n"
RECORD = """(() => {
  window.gaps = []; window.tasks = [];
  const tasks = (list) => window.tasks.push(...list.getEntries().map((one) => one.duration));
  new PerformanceObserver(tasks).observe({entryTypes: ["longtask"]});
  let last = 0;
  const frame = (at) => { if (last) window.gaps.push(at - last); last = at; requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
})()"""
FRAME_EVENTS = "disabled-by-default-devtools.timeline.frame"
"""The category of the events by which DevTools draws a page's frames."""
SETTLED = 60.0
"""Seconds after which the memory's slope counts: until then the page and its caches fill."""
TAKEN = "(() => { const taken = [window.gaps, window.tasks]; window.gaps = []; window.tasks = []; return taken; })()"


class PacedModel:
    """Implements ChatModel: writes tokens at a rate, by the clock, until its seconds are over."""

    def __init__(self, rate: float, seconds: float) -> None:
        self._rate, self._seconds = rate, seconds
        self.written = 0
        self.ended_at = 0.0

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        began, words = time.monotonic(), _tokens()
        self.written, self.ended_at = 0, 0.0
        try:
            while (passed := time.monotonic() - began) < self._seconds:
                for _ in range(int(passed * self._rate) - self.written):
                    yield Delta(next(words), model=NAME)
                    self.written += 1
                await asyncio.sleep(0.01)
            yield Delta(finish_reason="stop", model=NAME, usage=Usage(10, self.written))
        finally:
            self.ended_at = time.monotonic()

    def revision(self, request: ChatRequest) -> str:
        return NAME

    def readiness(self) -> Readiness:
        return Readiness(NAME, "ready", "writes by the clock")

    async def start(self) -> None:
        """Nothing to begin."""

    async def aclose(self) -> None:
        """Nothing to end."""


def _tokens() -> Iterator[str]:
    """Markdown without an end, four characters a token."""
    whole = PARAGRAPH * 6 + LIST + PARAGRAPH * 4 + CODE + PARAGRAPH * 5 + TABLE
    for part in itertools.repeat(whole):
        yield from (part[at : at + 4] for at in range(0, len(part), 4))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=1500, help="tokens a second")
    chosen = parser.parse_args()
    if BINARY is None:
        print("No Chromium is installed (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    model = PacedModel(chosen.rate, chosen.seconds)
    with tempfile.TemporaryDirectory() as folder, serving_models(local=model) as url, chromium(Path(folder)) as browser:
        measured = asyncio.run(_measured(browser, url, model, chosen.seconds))
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(measured, indent=2) + "\n")
    print(json.dumps(measured, indent=2))
    return 0


async def _measured(browser: Browser, url: str, model: PacedModel, seconds: float) -> dict[str, Any]:
    paints = [await _first_paint(browser, url) for _ in range(PAINTS)]
    async with browser.tab(f"{url}/#/chat") as page:
        await page.call("Performance.enable")
        await page.wait_for("!!document.querySelector('#send:enabled')")
        before = await _memory(page, browser)
        await page.type_into("#message", "Go on")
        await page.click("#send")
        await page.wait_for("(document.querySelector('.markdown') || {innerText: ''}).innerText.length > 0")
        await page.run(RECORD)
        await page.start_trace(FRAME_EVENTS)
        gaps: list[float] = []
        tasks: list[float] = []
        began, memory, work = time.monotonic(), [before], await _work(page)
        while time.monotonic() - began < seconds - 1:
            await asyncio.sleep(min(LOOK_SECONDS, max(1.0, seconds - 1 - (time.monotonic() - began))))
            between, long = await page.run(TAKEN)
            gaps += between
            tasks += long
            memory.append(await _memory(page, browser))
        frames = _frames(await page.end_trace())
        spent = {name: round((now - work[name]) / seconds, 3) for name, now in (await _work(page)).items()}
        await page.wait_for("!!document.querySelector('.receipt')")
        await page.call("HeapProfiler.collectGarbage")
        at_rest = await _memory(page, browser)
        written, stop = model.written, await _stop(page, model)
    ordered = sorted(gaps)
    return {
        "seconds": seconds,
        "tokens_per_second": round(written / seconds),
        "first_paint_ms": round(statistics.median(paints)),
        "stop_ms": round(1000 * stop),
        "trace": frames,
        "frames_per_second": round(1000 * len(gaps) / sum(gaps), 1),
        "frame_ms_p50": round(ordered[len(ordered) // 2], 1),
        "frame_ms_p99": round(ordered[len(ordered) * 99 // 100], 1),
        "frames_late": round(sum(gap > 25 for gap in gaps) / len(gaps), 4),
        "long_tasks": len(tasks),
        "longest_task_ms": round(max(tasks, default=0)),
        "seconds_of_work_a_second": spent,
        "before": before,
        "most": {name: max(one[name] for one in memory) for name in before if name != "at"},
        "process_mb_a_minute": _slope(memory),
        "after_collection": at_rest,
    }


def _frames(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """A second of the trace: frames that the browser began, drew because something had changed, and dropped."""
    times = [event["ts"] for event in events if event["name"] == "BeginFrame"]
    counts = Counter(event["name"] for event in events)
    seconds = (max(times) - min(times)) / 1e6
    drawn = sorted(event["ts"] for event in events if event["name"] == "DrawFrame")
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(drawn))
    return {
        "seconds": round(seconds, 1),
        "begun_per_second": round(counts["BeginFrame"] / seconds, 1),
        "drawn_per_second": round(counts["DrawFrame"] / seconds, 1),
        "dropped_per_second": round(counts["DroppedFrame"] / seconds, 2),
        "ms_between_drawn_p50": round(gaps[len(gaps) // 2] / 1000, 1),
        "ms_between_drawn_p99": round(gaps[len(gaps) * 99 // 100] / 1000, 1),
    }


def _slope(memory: Sequence[Mapping[str, float]]) -> float | None:
    """Megabytes a minute by which the page's process grows once it has settled; None of a shorter run."""
    later = [(one["at"], one["process_mb"]) for one in memory if one["at"] > memory[0]["at"] + SETTLED]
    if len(later) < 3:
        return None
    return round(60 * statistics.linear_regression(*zip(*later, strict=True)).slope, 2)


async def _stop(page: Page, model: PacedModel) -> float:
    """Seconds from a click on Stop to the end of the model's work, in the middle of another conversation's answer."""
    await page.click("[aria-label=Conversations] .second")
    await page.type_into("#message", "Once more")
    await page.click("#send")
    await page.wait_for("[...document.querySelectorAll('.markdown')].at(-1).innerText.length > 5000")
    began = time.monotonic()
    await page.click("#stop")
    # the model is another thread's: there is nothing of ours to wait on
    while not model.ended_at:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    return model.ended_at - began


async def _first_paint(browser: Browser, url: str) -> float:
    """Milliseconds from the navigation to the first content; each tab has an empty cache."""
    async with browser.tab(f"{url}/#/start") as page:
        await page.wait_for("!!document.querySelector('h1')")
        paint = "performance.getEntriesByName('first-contentful-paint').map((one) => one.startTime)[0]"
        return float(await page.wait_for(paint))


async def _work(page: Page) -> dict[str, float]:
    """Seconds that the page's main thread has worked, and at what."""
    found = {one["name"]: one["value"] for one in (await page.call("Performance.getMetrics"))["metrics"]}
    return {name: found[name] for name in ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")}


async def _memory(page: Page, browser: Browser) -> dict[str, float]:
    """Megabytes of the scripts' heap, and of the page's process without what it shares; nodes of the document."""
    found = {one["name"]: one["value"] for one in (await page.call("Performance.getMetrics"))["metrics"]}
    private = await asyncio.to_thread(browser.renderer_bytes)
    return {
        "at": round(time.monotonic(), 1),
        "heap_mb": round(found["JSHeapUsedSize"] / 1e6, 1),
        "process_mb": round(private / 1e6, 1),
        "nodes": found["Nodes"],
    }


if __name__ == "__main__":
    sys.exit(main())
