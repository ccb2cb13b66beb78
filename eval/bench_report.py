"""The local benchmark's figures as a Markdown table and a plot."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]
CALLERS = (1, 4, 8, 16)
PROMPTS = (128, 512)


def write(results: Results, folder: Path) -> None:
    """bench_local.md and, where matplotlib is installed, bench_local.png."""
    folder.mkdir(exist_ok=True)
    tables = [table(name, found) for name, found in results.items()]
    (folder / "bench_local.md").write_text("\n\n".join([heading(), *tables]) + "\n")
    try:
        import matplotlib  # noqa: F401 - asked for here, so that the table is written without it too
    except ImportError:
        print("No plot: matplotlib is not installed (requirements-dev.txt)")
        return
    plot(results, folder / "bench_local.png")


def heading() -> str:
    return (
        "# The local model over HTTP with SSE against stock `model.generate`\n\n"
        f"{processor()}, {os.cpu_count()} cores, {platform.platform()}. Stock: transformers alone in a process, one "
        "caller, best of two. Engine: the whole server, greedy, 64 tokens a caller, sums over "
        "all callers, best of the rounds. Decode: while all of them receive tokens. Whole answers: from the first "
        "request to the last byte, prompts included. Prefill: one prompt, from the request to the first token."
    )


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    flags = next((line for line in lines if line.startswith("flags")), "")
    kind = "AVX512-VNNI" if "avx512_vnni" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?") + f" ({kind})"


def table(name: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    bf16, fp32, engine = found["stock bf16"], found["stock fp32"], found["engine"]
    rows = [f"## {name}", "", "| | stock bf16 | stock fp32 | engine | x bf16 | x fp32 |", "|---|---|---|---|---|---|"]
    speeds = [(f"prefill of {n} tokens, tokens/s", f"prefill_{n}", f"prefill_{n}") for n in PROMPTS]
    for label, kind in (("decode", "decode"), ("whole answers", "whole")):
        speeds += [(f"{label}, callers: {callers}, tokens/s", "decode", f"{kind}_{callers}") for callers in CALLERS]
    for label, of_stock, of_engine in speeds:
        a, b, c = bf16[of_stock], fp32[of_stock], engine[of_engine]
        rows.append(f"| {label} | {a:.1f} | {b:.1f} | {c:.1f} | {c / a:.1f} | {c / b:.1f} |")
    memory = [found[key]["peak_bytes"] / 1e9 for key in ("stock bf16", "stock fp32", "engine")]
    rows.append("| peak RSS, GB (engine: 4 slots) | {:.2f} | {:.2f} | {:.2f} | | |".format(*memory))
    starts = (bf16["start_seconds"], fp32["start_seconds"], engine["cold_seconds"], engine["warm_seconds"])
    rows.append("| start to first token, s | {:.1f} | {:.1f} | cold {:.1f}, warm {:.1f} | | |".format(*starts))
    rows.append(f"| time to first token, short prompt, s | | | {engine['first_token']:.3f} | | |")
    rows.append(f"| longest gap in streams beside a 1,500-token prompt, s | | | {engine['gap']:.3f} | | |")
    return "\n".join(rows)


def plot(results: Results, file: Path) -> None:
    """Tokens/s over the number of callers, a panel a model."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(results), figsize=(5 * len(results), 4), squeeze=False)
    for panel, (name, found) in zip(panels[0], results.items(), strict=True):
        for kind, label in (("decode", "engine, HTTP + SSE"), ("whole", "the same, prompts included")):
            panel.plot(CALLERS, [found["engine"][f"{kind}_{n}"] for n in CALLERS], marker="o", label=label)
        for stock, style in (("stock bf16", "--"), ("stock fp32", ":")):
            panel.axhline(found[stock]["decode"], linestyle=style, color="gray", label=f"{stock}, 1 caller")
        panel.set(title=name, xlabel="callers", ylabel="tokens/s, sum", ylim=(0, None), xticks=CALLERS)
        panel.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)
