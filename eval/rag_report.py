"""The evaluation of retrieval as a Markdown page and a plot."""

import os
import platform
from pathlib import Path
from typing import Any

from eval.bench_report import processor
from eval.rag_measures import NDCG_AT, RECALL_AT
from eval.rag_results import Results, Row

NAME, PLOT = "rag_eval.md", "rag_eval.png"


def write(results: Results, folder: Path) -> None:
    """rag_eval.md and, where matplotlib is installed, rag_eval.png."""
    folder.mkdir(exist_ok=True)
    try:
        import matplotlib  # noqa: F401 - asked for here, so that the page is written without it too
    except ImportError:
        print("No plot: matplotlib is not installed (requirements-dev.txt)")
    else:
        plot(results, folder / PLOT)
    (folder / NAME).write_text(page(results), encoding="utf-8")


def page(results: Results) -> str:
    return "\n\n".join(
        [_heading(results), *(_table(row) for row in results.rows), _fusion(results), _threshold(results)]
    )


def _heading(results: Results) -> str:
    ingested = results.ingested
    return (
        "# Retrieval of the library of documents\n\n"
        f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}. Documents: the documentation "
        f"strings of this Python's standard library, {ingested.documents} Markdown files, {ingested.passages} "
        f"passages, ingested in {ingested.seconds:.1f} s ({ingested.passages / ingested.seconds:.0f} passages/s; most "
        "are short). "
        "Embeddings: all-MiniLM-L6-v2. Questions: written by hand (questions), and first sentences that were taken out "
        "of their documents (summaries). A hash splits them; everything below is of the half on which nothing was "
        f"chosen. One right entry a question; an entry counts once.\n\n![Recall and refusals]({PLOT})"
    )


def _table(row: Row) -> str:
    count = next(iter(row.ways.values())).questions
    lines = [f"## {row.name}: {count}", "", f"| | recall@{RECALL_AT} | nDCG@{NDCG_AT} | MRR |", "|---|---|---|---|"]
    lines += [f"| {way} | {q.recall:.3f} | {q.ndcg:.3f} | {q.mrr:.3f} |" for way, q in row.ways.items()]
    won, lost = row.against_vector
    lines += [
        "",
        f"Within {RECALL_AT}, hybrid finds {won} that vectors alone do not, and misses {lost} that they do.",
    ]
    return "\n".join(lines)


def _fusion(results: Results) -> str:
    same = "is" if results.library_equals_its_formula else "IS NOT"
    return (
        "## Fusion\n\nReciprocal rank fusion with vectors at weight 1. The tuning half chooses the constant k and the "
        f"weight of BM25 by recall@{RECALL_AT}: {results.tuned.constant} and {results.tuned.weight:g}; the library has "
        f"{results.library.constant} and {results.library.weight:g}. The library's own search {same} what the formula "
        "says for every question."
    )


def _threshold(results: Results) -> str:
    at = results.on_test
    return (
        "## I don't know\n\nA passage whose cosine to the question is under the threshold says nothing about it. The "
        f"tuning half chooses {results.threshold:.2f}; on the other half it refuses {at.refused:.1%} of the questions "
        f"that have an answer, and lets {at.let_through:.1%} of those through that are about something else.\n"
    )


def plot(results: Results, file: Path) -> None:
    """Recall by way of searching, and both kinds of mistakes by threshold."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure: Any
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    ways = list(results.rows[0].ways)
    width = 0.8 / len(ways)
    for index, way in enumerate(ways):
        places = [row + (index - len(ways) / 2 + 0.5) * width for row in range(len(results.rows))]
        recalls = [row.ways[way].recall for row in results.rows]
        left.bar(places, recalls, width, label=way.replace("*", ""))
    left.set_xticks(range(len(results.rows)), [row.name for row in results.rows])
    left.set_ylabel(f"recall@{RECALL_AT}")
    left.legend(fontsize="small", loc="lower center")
    thresholds = [at.threshold for at in results.curve]
    right.plot(thresholds, [at.refused for at in results.curve], label="answerable, refused")
    right.plot(thresholds, [at.let_through for at in results.curve], label="about something else, let through")
    right.axvline(results.threshold, color="grey", linestyle=":")
    right.set_xlabel("threshold (cosine)")
    right.legend()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
