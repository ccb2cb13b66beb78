"""transformers' own `model.generate`, timed in a process of its own: `python -m eval.bench_stock FOLDER DTYPE`.

Prints one line of JSON: prefill and decode tokens/s of one caller, the largest memory, start to first token.
"""

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

PROMPTS, ANSWER_TOKENS = (128, 512, 1500), 12


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure(folder: Path, dtype: str) -> dict[str, Any]:
    began = time.perf_counter()
    import torch
    from transformers import AutoModelForCausalLM

    from apps.core.process import available_cpus

    torch.set_num_threads(available_cpus())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True).eval()

    def token_times(prompt_tokens: int) -> list[float]:
        """Seconds from the call to each token."""
        times: list[float] = []
        prompt = torch.randint(300, 30_000, (1, prompt_tokens))
        start = time.perf_counter()

        def note(*_: Any) -> Any:
            times.append(time.perf_counter() - start)
            return torch.zeros(1, dtype=torch.bool)

        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=ANSWER_TOKENS,
            min_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=[note],
        )
        return times

    first_token = time.perf_counter() - began + token_times(PROMPTS[0])[0]
    rounds = {length: [token_times(length) for _ in range(2)] for length in PROMPTS}
    gaps = [b - a for times in rounds[PROMPTS[0]] for a, b in pairwise(times)]
    return {
        **{f"prefill_{length}": length / min(times[0] for times in rounds[length]) for length in PROMPTS},
        "decode": 1 / median(gaps),
        "peak_bytes": peak_bytes(),
        "start_seconds": first_token,
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
