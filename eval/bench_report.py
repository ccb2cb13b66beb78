"""The local benchmark's figures as a Markdown table, JSON, and a plot."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# by checkpoint: figures by contender, notes, what is missing and why, the machine's limits, the parameters
Results = Mapping[str, Mapping[str, Any]]
CALLERS = (1, 4, 8, 16)
STOCK = "stock bf16"
# label, figure, decimals, what it is divided by
ROWS: tuple[tuple[str, str, int, float], ...] = (
    *((f"decode, callers: {callers}, tokens/s", f"decode_{callers}", 1, 1) for callers in CALLERS),
    *((f"whole answers, callers: {callers}, tokens/s", f"whole_{callers}", 1, 1) for callers in CALLERS),
    *((f"prompt of {tokens:,} tokens, tokens/s", f"prefill_{tokens}", 0, 1) for tokens in (128, 512, 1500)),
    ("first token of a short prompt, s", "first_seconds", 3, 1),
    ("a chat of 8 turns, s", "chat_seconds", 2, 1),
    ("first token of its last turn, s", "last_turn_seconds", 3, 1),
    ("JSON by a schema, tokens/s", "json", 1, 1),
    ("a quote from a document, tokens/s", "copying", 1, 1),
    ("3 streams and a prompt of 1,500 tokens, tokens/s of both", "mixed", 0, 1),
    ("longest gap in these streams, s", "gap_seconds", 3, 1),
    ("peak RSS, GB", "peak_bytes", 2, 1e9),
    ("start to first token, s", "start_seconds", 1, 1),
    ("the same with an empty cache, s", "cold_seconds", 1, 1),
)


def write(results: Results, folder: Path) -> None:
    """bench_local.md, bench_local.json and, where matplotlib is installed, bench_local.png."""
    folder.mkdir(exist_ok=True)
    tables = [table(name, found) for name, found in results.items()]
    (folder / "bench_local.md").write_text("\n\n".join([heading(), *tables]) + "\n")
    (folder / "bench_local.json").write_text(json.dumps(results, indent=2) + "\n")
    try:
        import matplotlib  # noqa: F401 - asked for here, so that the table is written without it too
    except ImportError:
        print("No plot: matplotlib is not installed (requirements-dev.txt)")
        return
    plot(results, folder / "bench_local.png")


def heading() -> str:
    return (
        "# The local model and its peers\n\n"
        f"{processor()}, {os.cpu_count()} cores, {platform.platform()}, load average {os.getloadavg()[0]:.1f} at the "
        "end. Stock: transformers' `generate` in a process, one caller. All others: servers with 16 slots over HTTP "
        "with SSE, greedy, in turns, sums over all callers, the best of the rounds. Decode: while all callers receive "
        "tokens. Whole answers: from the first request to the last byte, prompts included."
    )


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    flags = next((line for line in lines if line.startswith("flags")), "")
    kind = "AVX512-VNNI" if "avx512_vnni" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?") + f" ({kind})"


def table(name: str, found: Mapping[str, Any]) -> str:
    figures: Mapping[str, Mapping[str, float]] = found["figures"]
    named = list(figures)
    ratios: Mapping[str, float] = found.get("ratios", {})
    heads = [*named, *(["now : then, median of the rounds"] if ratios else [])]
    rows = [f"## {name}", "", f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for label, key, decimals, unit in ROWS:
        # generate answers one caller after the other
        values = [figures[one].get(key, figures[one].get("decode") if key == "decode_1" else None) for one in named]
        if any(value is not None for value in values):
            ratio = f" {ratios[key]:.2f} |" if key in ratios else " |" if ratios else ""
            rows.append(row(label, [None if value is None else value / unit for value in values], decimals) + ratio)
    rows += shares(found)
    lines = [f"{one}: {note}." for one, note in found["notes"].items() if note]
    lines += [f"{one} was left out: {why}." for one, why in found["missing"].items()]
    return "\n".join([*rows, "", *lines])


def row(label: str, values: list[float | None], decimals: int) -> str:
    return f"| {label} | {' | '.join('' if value is None else f'{value:,.{decimals}f}' for value in values)} |"


def shares(found: Mapping[str, Any]) -> list[str]:
    """How near each comes to what memory allows, by the weights that are read, and arithmetic, by multiplications."""
    figures, limits = found["figures"], found["limits"]
    bandwidth, operations = limits["bytes_a_second"], limits["operations_a_second"]
    memory: list[float | None] = []
    arithmetic: list[float | None] = []
    for each in figures.values():
        served = "weights_bytes" in each and "decode_1" in each
        memory.append(100 * each["decode_1"] * each["weights_bytes"] / bandwidth if served else None)
        prefill = each.get("prefill_512")
        arithmetic.append(None if prefill is None else 100 * 2 * prefill * found["parameters"] / operations)
    return [
        row(f"decode, 1 caller, % of {bandwidth / 1e9:.0f} GB/s", memory, 0),
        row(f"prompt of 512, % of {operations / 1e9:.0f} GFLOP/s in float32", arithmetic, 0),
    ]


def plot(results: Results, file: Path) -> None:
    """Tokens/s over the number of callers, a panel a model."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(results), figsize=(5 * len(results), 4), squeeze=False)
    for panel, (name, found) in zip(panels[0], results.items(), strict=True):
        for contender, figures in found["figures"].items():
            if "decode" in figures:
                label = f"{contender}, 1 caller"
                panel.axhline(
                    figures["decode"], linestyle="--" if contender == STOCK else ":", color="gray", label=label
                )
            else:
                panel.plot(CALLERS, [figures.get(f"decode_{n}", 0.0) for n in CALLERS], marker="o", label=contender)
        panel.set(title=name, xlabel="callers", ylabel="tokens/s, sum", ylim=(0, None), xticks=CALLERS)
        panel.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
