"""What one run of `make bench-gateway` measured, its ratios to others of its round, and medians over rounds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from eval.gateway_calls import Kind

REFERENCES = ("bare", "off", "then")


@dataclass(frozen=True, slots=True)
class Run:
    """One contender under one load: latencies in milliseconds; ``ratios`` of its rate to those of REFERENCES."""

    contender: str
    kind: Kind
    streamed: bool
    connections: int
    rate: float
    p50: float
    p99: float
    failed: int
    ratios: Mapping[str, float] = field(default_factory=dict)


def with_ratios(runs: Sequence[Run]) -> list[Run]:
    """The runs of one load in one round; the references of all kinds of calls are calls that no cache may keep."""
    rates = {run.contender: run.rate for run in runs if run.kind == "plain"}
    beside = {name: rates[name] for name in REFERENCES if name in rates}
    return [replace(run, ratios={name: run.rate / rate for name, rate in beside.items()}) for run in runs]


def medians(runs: Sequence[Run]) -> list[Run]:
    """One run a contender, kind and load, of each figure's median; failures are summed."""
    alike: dict[tuple[str, Kind, bool, int], list[Run]] = {}
    for run in runs:
        alike.setdefault((run.contender, run.kind, run.streamed, run.connections), []).append(run)
    return [_median(same) for same in alike.values()]


def _median(same: Sequence[Run]) -> Run:
    rate, p50, p99 = (statistics.median(getattr(run, figure) for run in same) for figure in ("rate", "p50", "p99"))
    ratios = {name: statistics.median(run.ratios[name] for run in same) for name in same[0].ratios}
    return replace(same[0], rate=rate, p50=p50, p99=p99, failed=sum(run.failed for run in same), ratios=ratios)
