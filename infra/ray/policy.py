"""How many replicas there should be, from what each says of itself (who waits wants more), and on which cores each."""

import math
from collections.abc import Sequence
from typing import Any

# of the slots that calls may fill before another replica starts
FULL = 0.8


def wanted(current: int, least: int, most: int, waiting: float, running: float, slots: float) -> int:
    """Replicas for the calls that run and wait, with a fifth of the slots free. ``slots`` are those of a replica."""
    if slots <= 0:
        return max(least, min(most, current))
    return max(least, min(most, math.ceil((waiting + running) / (slots * FULL))))


def wanted_replicas(context: Any) -> tuple[int, dict[str, Any]]:
    """Ray Serve's policy function: the number of replicas, and a state that it does not need."""
    metrics = context.aggregated_metrics or {}

    def total(name: str) -> float:
        return float(sum((metrics.get(name) or {}).values()))

    told = [value for value in (metrics.get("slots") or {}).values() if value]
    slots = sum(told) / len(told) if told else 0.0
    least, most = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return wanted(context.current_num_replicas, least, most, total("waiting"), total("running"), slots), {}


def cores(there: Sequence[int], rank: int, cpus: float) -> set[int]:
    """The cores of a machine's replica of this rank: its own where it has whole ones, else all of ``there``."""
    if cpus < 1 or cpus != int(cpus):
        return set(there)
    first = rank * int(cpus)
    return {there[(first + index) % len(there)] for index in range(int(cpus))}
