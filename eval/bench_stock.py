"""transformers' own `model.generate`, timed in a process of its own: `python -m eval.bench_stock FOLDER DTYPE`.

Prints one line of JSON: prefill and decode tokens/s of one caller, the largest memory, start to first token.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

PROMPT_TOKENS, ANSWER_TOKENS = 128, 12


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure(folder: Path, dtype: str) -> dict[str, Any]:
    began = time.perf_counter()
    import torch
    from transformers import AutoModelForCausalLM

    from apps.models.local.cpu import available_cpus

    torch.set_num_threads(available_cpus())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True).eval()
    prompt = torch.randint(300, 30_000, (1, PROMPT_TOKENS))

    def seconds(tokens: int) -> float:
        start = time.perf_counter()
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return time.perf_counter() - start

    seconds(1)
    first_token = time.perf_counter() - began
    prefill = min(seconds(1), seconds(1))
    whole = seconds(1 + ANSWER_TOKENS)
    return {
        "prefill": PROMPT_TOKENS / prefill,
        "decode": ANSWER_TOKENS / (whole - prefill),
        "peak_bytes": peak_bytes(),
        "start_seconds": first_token,
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
