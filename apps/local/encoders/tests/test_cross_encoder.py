"""The cross-encoder's arithmetic against transformers' own, on small made checkpoints."""

from pathlib import Path

import pytest

from apps.core.errors import InvalidValue, ModelUnavailable
from apps.local.encoders.load_failure import RETRY_AFTER
from apps.local.encoders.reranker import LocalReranker, missing_requirements

pytestmark = [
    pytest.mark.local,
    pytest.mark.skipif(bool(missing_requirements()), reason="needs requirements-local.txt"),
]

QUERY = "what do owls eat?"
TEXTS = [
    "owls hunt mice at night.",
    "bread is baked from flour.",
    "mice",
    "owls " * 30,
    "the bread of owls and mice. " * 3,
]


def one_by_one(folder: Path, query: str, texts: list[str]) -> list[float]:
    """Each pair alone, unpadded, in float32."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found: list[float] = []
    for text in texts:
        with torch.inference_mode():
            pair = tokenizer(query, text, truncation="only_second", max_length=64, return_tensors="pt")
            logits = model(**pair).logits[0]
        found.append(float(torch.sigmoid(logits[0]) if len(logits) == 1 else torch.softmax(logits, 0)[1]))
    return found


@pytest.mark.parametrize(("kind", "labels"), [("bert", 1), ("bert", 2), ("roberta", 1)])
def test_scores_are_those_of_transformers_whatever_the_batch(tmp_path: Path, kind: str, labels: int) -> None:
    from apps.local.encoders.bert import CrossEncoder
    from apps.local.encoders.tests.cross_encoders import make_cross_encoder

    folder = make_cross_encoder(tmp_path, labels, kind)
    model = CrossEncoder(str(folder), "fp32")
    scores, tokens = model.scores(QUERY, TEXTS)
    assert scores == pytest.approx(one_by_one(folder, QUERY, TEXTS), abs=1e-5)
    assert len({round(score, 4) for score in scores}) > 2 and tokens > 60
    assert model.longest == 64


def test_bf16_scores_are_close(tmp_path: Path) -> None:
    from apps.local.encoders.bert import CrossEncoder
    from apps.local.encoders.tests.cross_encoders import make_cross_encoder

    folder = make_cross_encoder(tmp_path)
    half, _ = CrossEncoder(str(folder), "bf16").scores(QUERY, TEXTS)
    assert half == pytest.approx(one_by_one(folder, QUERY, TEXTS), abs=0.15)


async def test_a_query_without_room_for_a_text_is_refused(tmp_path: Path) -> None:
    from apps.local.encoders.tests.cross_encoders import make_cross_encoder

    reranker = LocalReranker(str(make_cross_encoder(tmp_path)))
    with pytest.raises(InvalidValue, match="query has"):
        await reranker.rerank("owls " * 60, ["mice"])
    ranked = await reranker.rerank(QUERY, ["mice"])
    assert len(ranked.scores) == 1 and reranker.readiness().reason == "Loaded"
    await reranker.aclose()


async def test_what_is_no_reranker_is_said_and_tried_again(tmp_path: Path) -> None:
    from apps.local.encoders.tests.cross_encoders import make_cross_encoder

    now = [100.0]
    reranker = LocalReranker(str(tmp_path / "model"), lambda: now[0])
    with pytest.raises(ModelUnavailable):
        await reranker.rerank(QUERY, ["mice"])
    now[0] += RETRY_AFTER - 1
    assert (reranker.readiness().state, reranker.readiness().retry_after) == ("failed", 1)
    now[0] += 1
    again = reranker.readiness()
    assert (again.state, again.retry_after) == ("ready", None) and "tries again at its next use" in again.reason
    make_cross_encoder(tmp_path / "model", labels=5)
    with pytest.raises(ModelUnavailable):
        await reranker.rerank(QUERY, ["mice"])
    make_cross_encoder(tmp_path / "model")
    assert reranker.readiness().state == "failed"
    assert (await reranker.rerank(QUERY, ["mice"])).model == "model"
    assert reranker.readiness().reason == "Loaded"
    await reranker.aclose()
