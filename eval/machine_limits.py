"""What this machine can read and multiply in a second, as far as torch reaches it: `python -m eval.machine_limits`.

Prints one line of JSON: bytes/s of memory, float32 operations/s. The best of some rounds.
"""

import json
import time
from collections.abc import Callable
from typing import Any

READ_BYTES, SIZE, ROUNDS = 1 << 29, 1536, 5


def best(work: Callable[[], Any]) -> float:
    work()
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> None:
    import torch

    from apps.core.process import available_cpus

    torch.set_num_threads(available_cpus())
    values, square = torch.zeros(READ_BYTES // 8, dtype=torch.int64), torch.ones(SIZE, SIZE)
    read, multiplied = best(values.sum), best(lambda: square @ square)
    print(json.dumps({"bytes_a_second": READ_BYTES / read, "operations_a_second": 2 * SIZE**3 / multiplied}))


if __name__ == "__main__":
    main()
