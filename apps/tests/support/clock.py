"""A clock that a test moves, for code that takes one."""

from dataclasses import dataclass


@dataclass(slots=True)
class Clock:
    """A time in seconds that stands still until ``now`` is set; a reading moves it by ``step`` first."""

    now: float = 0.0
    step: float = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now
