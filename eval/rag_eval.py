"""The library of documents, measured: `python -m eval.rag_eval [--part PART]`; reports/rag_eval.md with plots.

Recall@5, nDCG@10 and MRR of vectors alone, BM25 alone and both fused, on questions about the standard library's own
documentation (rag_questions.py), with the real embedding model. The fusion's numbers and the threshold of "I don't
know" are chosen on one half of the questions and reported on the other. Then how fast it is (rag_speed.py): queries in
collections of three sizes, ingestion of PDFs. Some minutes on two cores; what is measured is kept in
reports/rag_eval.json, so that each part can be measured by itself.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from apps.local.encoders.embedder import MiniLM
from apps.rag.search import Ranking
from eval import rag_report
from eval.rag import calibration
from eval.rag_questions import QuestionSet, question_set
from eval.rag_results import Results, Run
from eval.rag_retrieval import ask, ingest, open_library, own_ranking
from eval.rag_speed import DEFAULT_PAGES, DEFAULT_ROWS, measure_latency
from eval.rag_speed_ingestion import measure_ingestion

REPORTS = Path("reports")


async def measure(questions: QuestionSet, folder: Path, ranking: Ranking) -> Run:
    """Ingest, then ask everything."""
    embedder = MiniLM()
    library = open_library(folder, embedder, embedder.tokenizer_file, ranking)
    await library.start()
    try:
        ingested = await ingest(library, questions)
        sets = (questions.asked, questions.summaries, questions.unanswerable)
        asked, summaries, unanswerable = [[await ask(library, question) for question in one] for one in sets]
        own = [await own_ranking(library, found) for found in [*asked, *summaries]]
        return Run(ingested, asked, summaries, unanswerable, own)
    finally:
        await library.aclose()
        await embedder.aclose()


def quality() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = asyncio.run(measure(question_set(), Path(folder), Ranking()))
    return asdict(Results.of(run, Ranking()))


def main() -> None:
    parts: dict[str, Callable[[], Any]] = {
        "quality": quality,
        "relevance": calibration.measure,
        "latency": lambda: [asdict(measure_latency(rows)) for rows in DEFAULT_ROWS],
        "ingestion": lambda: asdict(asyncio.run(measure_ingestion(DEFAULT_PAGES))),
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=parts, action="append", help="measure this alone (default: all of them)")
    chosen = parser.parse_args().part or list(parts)
    REPORTS.mkdir(exist_ok=True)
    kept = REPORTS / "rag_eval.json"
    results: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for name in chosen:
        results[name] = parts[name]()
        kept.write_text(json.dumps(results, indent=1), encoding="utf-8")
    rag_report.write(results, REPORTS)
    print((REPORTS / rag_report.NAME).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
