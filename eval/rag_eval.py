"""Retrieval of the library of documents, measured: `python -m eval.rag_eval`; writes reports/rag_eval.md and a plot.

Recall@5, nDCG@10 and MRR of vectors alone, BM25 alone and both fused, on questions about the standard library's own
documentation (rag_questions.py), with the real embedding model. The fusion's numbers and the threshold of "I don't
know" are chosen on one half of the questions and reported on the other. A few minutes on two cores.
"""

import asyncio
import tempfile
from pathlib import Path

from apps.models.embedding.minilm import MiniLM
from apps.rag.ranking import Ranking
from eval import rag_report
from eval.rag_questions import QuestionSet, question_set
from eval.rag_results import Results, Run
from eval.rag_retrieval import ask, ingest, open_library, own_ranking

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


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = asyncio.run(measure(question_set(), Path(folder), Ranking()))
    results = Results.of(run, Ranking())
    rag_report.write(results, REPORTS)
    print((REPORTS / rag_report.NAME).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
