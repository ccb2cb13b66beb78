"""wrk as `make bench-gateway` uses it: its script, one run, and whether its calls were what they are said to be."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from eval.gateway_calls import COUNTER, Call, Kind
from eval.gateway_contenders import Contender
from eval.gateway_runs import Run

KEPT_SECONDS = 5
SETTLE_SECONDS = 0.2
# calls that an earlier run left under way may still reach the mock
MOST_STRAYS = 0.01
HEAD = """
wrk.method = "POST"
wrk.body = [==[%s]==]
"""
HEADER = """wrk.headers["%s"] = "%s"
"""
# the bytes around the number are put together once: wrk shares the cores with what it measures
NUMBERED = """
local before, after, number = "", "", 0
init = function(args)
  local whole = wrk.format()
  local first, last = string.find(whole, "%s", 1, true)
  before, after = string.sub(whole, 1, first - 1), string.sub(whole, last + 1)
end
request = function()
  number = number + 1
  return before .. string.format("%%09d", number) .. after
end
"""
DONE = """
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('\\nRESULT {"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "failed": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


class Wrk:
    """Runs of ``seconds`` each; ``mock`` is the upstream, which counts the calls that reach it.

    Each run begins when what the one before left to do, such as the rows of a ledger, is done.
    """

    def __init__(self, folder: Path, mock: Contender, seconds: int) -> None:
        self.seconds = seconds
        self._script = folder / "wrk.lua"
        self._mock = mock.url.removesuffix("/v1/chat/completions")
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._numbers: Iterator[int] = count(1)

    def run(self, contender: Contender, kind: Kind, streamed: bool, connections: int) -> Run:
        call = Call(kind, streamed, next(self._numbers))
        if kind == "hit":
            _put_into_cache(contender, call)
        self._script.write_text(script(call, contender.key), encoding="utf-8")
        time.sleep(SETTLE_SECONDS)
        self._upstream("/reset")
        result = self._result(contender.url, connections)
        answered = int(result["requests"] - result["failed"])
        check_cache(contender.name, kind, answered, self._upstream("/stats")["requests"])
        rate, failed = result["requests"] / result["seconds"], int(result["failed"])
        return Run(contender.name, kind, streamed, connections, rate, result["p50"], result["p99"], failed)

    def _result(self, url: str, connections: int) -> dict[str, float]:
        command = ["wrk", "-t1", f"-c{connections}", f"-d{self.seconds}s", "--timeout", "10s", "-s", str(self._script)]
        done = subprocess.run([*command, url], capture_output=True, text=True, check=True)  # noqa: S603 - by name
        line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
        result: dict[str, float] = json.loads(line.removeprefix("RESULT "))
        return result

    def _upstream(self, path: str) -> dict[str, int]:
        with self._opener.open(self._mock + path, timeout=10) as answer:
            told: dict[str, int] = json.load(answer)
        return told


def script(call: Call, key: str) -> str:
    headers = "".join(HEADER % pair for pair in call.headers(key).items())
    numbered = NUMBERED % COUNTER if call.kind == "miss" else ""
    return HEAD % call.body() + headers + numbered + DONE


def check_cache(name: str, kind: Kind, answered: int, upstream: int) -> None:
    """RuntimeError where hits reached the upstream, or where what must be made each time did not."""
    strays = answered * MOST_STRAYS
    if upstream > strays if kind == "hit" else upstream < answered - strays:
        raise RuntimeError(f"{name}, {kind}: {upstream} of {answered} answers were made by the upstream")


def _put_into_cache(contender: Contender, call: Call) -> None:
    ends = time.monotonic() + KEPT_SECONDS
    while time.monotonic() < ends:
        if contender.ask(call).get("x-cache") == "hit":
            return
    raise RuntimeError(f"{contender.name} keeps no answer to {call.body()}")
