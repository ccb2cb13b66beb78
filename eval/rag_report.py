"""What was measured of the library of documents, as a Markdown page and two plots. Takes results as JSON keeps them."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.bench_report import processor
from eval.rag_measures import NDCG_AT, RECALL_AT

NAME, QUALITY_PLOT, LATENCY_PLOT = "rag_eval.md", "rag_eval_quality.png", "rag_eval_latency.png"
Part = Mapping[str, Any]


def write(results: Mapping[str, Any], folder: Path) -> None:
    """The page, and the plots where matplotlib is installed."""
    quality, latency, ingestion = (results.get(name) for name in ("quality", "latency", "ingestion"))
    sections = [
        f"# The library of documents\n\n{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}."
    ]
    sections += _quality(quality) if quality else []
    sections += [_latency(latency)] if latency else []
    sections += [_ingestion(ingestion)] if ingestion else []
    (folder / NAME).write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    try:
        import matplotlib
    except ImportError:
        print("No plots: matplotlib is not installed (requirements-dev.txt)")
        return
    matplotlib.use("Agg")
    if quality:
        _plot_quality(quality, folder / QUALITY_PLOT)
    if latency:
        _plot_latency(latency, folder / LATENCY_PLOT)


def _quality(results: Part) -> list[str]:
    ingested = results["ingested"]
    speed = ingested["passages"] / ingested["seconds"]
    about = (
        "## Retrieval\n\nDocuments: the documentation strings of this Python's standard library, "
        f"{ingested['documents']} Markdown files, {ingested['passages']} passages, ingested in "
        f"{ingested['seconds']:.1f} s ({speed:.0f} passages/s; most are short). Embeddings: all-MiniLM-L6-v2. "
        "Questions: written by hand (questions), and first sentences that were taken out of their documents "
        "(summaries). A hash splits them; everything below is of the half on which nothing was chosen. One right "
        f"entry a question; an entry counts once.\n\n![Recall and refusals]({QUALITY_PLOT})"
    )
    return [about, *(_table(row) for row in results["rows"]), _fusion(results), _threshold(results)]


def _table(row: Part) -> str:
    count = next(iter(row["ways"].values()))["questions"]
    lines = [f"### {row['name']}: {count}", "", f"| | recall@{RECALL_AT} | nDCG@{NDCG_AT} | MRR |", "|---|---|---|---|"]
    lines += [f"| {way} | {q['recall']:.3f} | {q['ndcg']:.3f} | {q['mrr']:.3f} |" for way, q in row["ways"].items()]
    won, lost = row["against_vector"]
    lines += ["", f"Within {RECALL_AT}, hybrid finds {won} that vectors alone do not, and misses {lost} that they do."]
    return "\n".join(lines)


def _fusion(results: Part) -> str:
    tuned, library = results["tuned"], results["library"]
    agreeing, compared = results["agreeing"]
    return (
        "### Fusion\n\nReciprocal rank fusion with vectors at weight 1. The tuning half chooses the constant k and the "
        f"weight of BM25 by recall@{RECALL_AT}: {tuned['constant']} and {tuned['weight']:g}; the library has "
        f"{library['constant']} and {library['weight']:g}. Its own search finds within {RECALL_AT} what the formula "
        f"says for {agreeing} of {compared} questions."
    )


def _threshold(results: Part) -> str:
    at, default = results["on_test"], results["default"]
    return (
        "### I don't know, by the cosine alone (the rule: rag_relevance.md)\n\n"
        "A passage whose cosine to the question is under the threshold says nothing about it. The "
        f"tuning half chooses {results['threshold']:.2f}; on the other half it refuses {at['refused']:.1%} of the "
        f"questions that have an answer, and lets {at['let_through']:.1%} of those through that are about something "
        f"else. At {default['threshold']:.2f} they are {default['refused']:.1%} and "
        f"{default['let_through']:.1%}."
    )


def _latency(rows: Sequence[Part]) -> str:
    lines = ["## Queries", "", f"![Latency]({LATENCY_PLOT})", ""]
    lines += ["Milliseconds, without generation, the question's embedding included; synthetic passages.", ""]
    lines += ["| passages | hybrid p50 | p99 | filtered p50 | p99 | vectors p50 | BM25 p50 | RSS growth, MB |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    names = ["hybrid_p50", "hybrid_p99", "filtered_p50", "filtered_p99", "vector_p50", "text_p50", "rss_growth_mb"]
    lines += [f"| {row['passages']:,} | " + " | ".join(f"{row[name]:.1f}" for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _ingestion(figures: Part) -> str:
    return (
        f"## Ingestion\n\n{figures['pages']:,} pages of PDF, {figures['passages']:,} passages, in "
        f"{figures['seconds']:.0f} s: {figures['pages_per_second']:.1f} pages/s, {figures['passages_per_second']:.1f} "
        f"passages/s, {figures['share']:.2f} x what the embedder alone does with the same passages in the same run "
        f"({figures['embedder_passages_per_second']:.1f} passages/s)."
    )


def _plot_quality(results: Part, file: Path) -> None:
    """Recall by way of searching, and both kinds of mistakes by threshold."""
    from matplotlib import pyplot

    left: Any
    right: Any
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    rows = results["rows"]
    ways = list(rows[0]["ways"])
    width = 0.8 / len(ways)
    for index, way in enumerate(ways):
        places = [row + (index - len(ways) / 2 + 0.5) * width for row in range(len(rows))]
        left.bar(places, [row["ways"][way]["recall"] for row in rows], width, label=way.replace("*", ""))
    left.set_xticks(range(len(rows)), [row["name"] for row in rows])
    left.set_ylabel(f"recall@{RECALL_AT}")
    left.legend(fontsize="small", loc="lower center")
    curve = results["curve"]
    thresholds = [at["threshold"] for at in curve]
    right.plot(thresholds, [at["refused"] for at in curve], label="answerable, refused")
    right.plot(thresholds, [at["let_through"] for at in curve], label="about something else, let through")
    right.axvline(results["threshold"], color="grey", linestyle=":")
    right.set_xlabel("threshold (cosine)")
    right.legend()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _plot_latency(rows: Sequence[Part], file: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    sizes = [row["passages"] for row in rows]
    for name in ("hybrid_p99", "hybrid_p50", "vector_p50", "text_p50", "embedding_p50"):
        axes.plot(sizes, [row[name] for row in rows], marker="o", label=name.replace("_", " "))
    axes.set_xscale("log")
    axes.set_xlabel("passages")
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
