"""How many tokens of prompts go into one step: as many as take so long, at the speed that was measured."""

SMALLEST, LARGEST = 12, 252
# while answers are running, a step is also the gap between two of their tokens
SECONDS_BESIDE_ANSWERS, SECONDS_ALONE = 0.1, 0.25


class Chunking:
    """Learns from each wide step. Rows are counted in twelves, the height of one of the kernels' tiles, or of three."""

    def __init__(self) -> None:
        self._seconds_per_row = SECONDS_BESIDE_ANSWERS / 48

    @property
    def seconds_per_row(self) -> float:
        return self._seconds_per_row

    def rows(self, answers_running: bool) -> int:
        seconds = SECONDS_BESIDE_ANSWERS if answers_running else SECONDS_ALONE
        return max(SMALLEST, min(LARGEST, int(seconds / self._seconds_per_row) // SMALLEST * SMALLEST))

    def learn(self, rows: int, seconds: float) -> None:
        if rows >= SMALLEST:
            self._seconds_per_row += 0.3 * (seconds / rows - self._seconds_per_row)
