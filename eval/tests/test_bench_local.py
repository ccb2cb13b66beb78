"""The local model's bench, as far as it is arithmetic and text, and its contenders where they can be had."""

import asyncio
from pathlib import Path

import pytest

from apps.core.settings import Settings
from apps.tests.support.tiny_checkpoint import write_tiny_checkpoint
from eval import bench_report
from eval.bench_client import Refused, Server, Timed, ask, decode_speed, read_events, said
from eval.bench_local import best, in_turns, ratios
from eval.bench_speculation import copied
from eval.local_contenders import CONTENDERS, LLAMA_CPP, OPENVINO, Checkpoint, Contender, NotHere
from eval.local_peers.gguf_file import gguf_name, write

STOCK = {"prefill_512": 250.0, "decode": 10.0, "peak_bytes": 2_500_000_000, "start_seconds": 4.0}
SERVED = {
    "prefill_512": 500.0,
    "peak_bytes": 900_000_000,
    "start_seconds": 1.5,
    "gap_seconds": 0.125,
    "weights_bytes": 200_000_000.0,
    **{f"{kind}_{callers}": 75.0 * callers for kind in ("decode", "whole") for callers in (1, 4, 8, 16)},
}
FOUND = {
    "figures": {"stock bf16": STOCK, "this project": SERVED},
    "notes": {"this project": "own, avx2"},
    "missing": {"llama.cpp": "the peers' environment is not there"},
    "limits": {"bytes_a_second": 30e9, "operations_a_second": 200e9},
    "parameters": 100_000_000,
}


def test_decoding_counts_from_the_last_caller_s_first_token_to_the_first_one_s_end() -> None:
    early = Timed(0.0, [1.0, 2.0, 3.0, 4.0], {"completion_tokens": 4})
    late = Timed(0.0, [2.0, 3.0, 4.0, 5.0], {"completion_tokens": 8})  # two tokens to a delta
    assert decode_speed([early, late]) == (2 + 4) / 2
    assert decode_speed([early]) == 1
    assert decode_speed([Timed(0.0, [1.0], {"completion_tokens": 1})]) == 0


def test_a_single_answer_s_speed_leaves_its_first_delta_out() -> None:
    assert Timed(0.0, [1.0, 2.0, 3.0], {"completion_tokens": 6}).speed == 2
    assert Timed(0.0, [1.0], {"completion_tokens": 1}).speed == 0


def test_events_are_read_through_chunks_and_a_cut_stream_is_refused() -> None:
    stream = (
        b'HTTP/1.1 200 OK\r\n\r\n2a\r\ndata: {"choices": [{"delta": {"content": "Py"}}]}\n\n\r\n'
        b'data: {"choices": [{"delta": {"content": null}}]}\n\n'
        b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}\n\ndata: [DONE]\n\n'
    )
    read_events(stream, timed := Timed(0.0))
    assert (timed.text, timed.usage["prompt_tokens"]) == ("Py", 3)
    with pytest.raises(Refused):
        read_events(stream.replace(b"data: [DONE]", b""), Timed(0.0))


def test_the_best_of_the_rounds_is_kept_and_contenders_take_turns() -> None:
    assert best("gap_seconds", [0.2, 0.1]) == 0.1 and best("decode_4", [0.2, 0.1]) == 0.2
    asked = []

    async def part(server: Server, at: int) -> dict[str, float]:
        asked.append((server.url, at))
        return {"decode_1": float(at), "chat_seconds": float(at)}

    contenders = {name: Contender(Server(name), 0, 0.0, "", 0) for name in ("a", "b")}
    rounds = {"decode_1": {0: 0.0, 1: 1.0}, "chat_seconds": {0: 0.0, 1: 1.0}}
    assert in_turns(contenders, [part], 2) == {"a": rounds, "b": rounds}
    assert asked == [("a", 0), ("b", 0), ("b", 1), ("a", 1)]


def test_a_copy_is_told_from_a_paraphrase() -> None:
    text = "The museum opens on weekdays at nine."
    assert copied("Quote: The museum opens  on\nweekdays at nine.", text) == 4 / 5
    assert copied("The museum opens on Sundays at nine", text) == 1 / 4
    assert copied("museum", text) == 0.0


def test_an_earlier_commit_is_compared_round_by_round() -> None:
    now = {"decode_1": {0: 10.0, 1: 40.0, 2: 9.0}, "gap_seconds": {0: 0.1, 1: 0.1, 2: 0.2}, "json": {0: 1.0}}
    # a round in which it did not answer is left out, of both
    now["decode_1"][3] = 1000.0
    then = {"decode_1": {0: 10.0, 1: 20.0, 2: 10.0, 4: 1.0}, "gap_seconds": {0: 0.2, 1: 0.3, 2: 0.2}}
    # 1.0, 2.0, 0.9 and, of seconds the other way round, 2.0, 3.0, 1.0
    assert ratios(now, then) == pytest.approx({"decode_1": 1.0, "gap_seconds": 2.0})
    page = bench_report.table("Some model", FOUND | {"ratios": {"decode_1": 1.0}})
    head, rule, *rows = page.splitlines()[2:]
    assert head.endswith("| now : then, median of the rounds |") and head.count("|") == rule.count("|")
    assert all(line.count("|") == head.count("|") for line in rows if line.startswith("| decode, callers"))
    assert any(line.startswith("| decode, callers: 1,") and line.endswith(" 1.00 |") for line in rows)


def test_the_report_is_a_table_with_shares_and_reasons_and_a_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib comes with requirements-dev.txt")
    bench_report.write({"Some model": FOUND}, tmp_path)
    page = (tmp_path / "bench_local.md").read_text(encoding="utf-8")
    assert "| | stock bf16 | this project |" in page
    assert "| decode, callers: 1, tokens/s | 10.0 | 75.0 |" in page
    assert "| decode, callers: 16, tokens/s |  | 1,200.0 |" in page
    assert "| longest gap in these streams, s |  | 0.125 |" in page
    assert "| decode, 1 caller, % of 30 GB/s |  | 50 |" in page
    assert "| prompt of 512, % of 200 GFLOP/s in float32 | 25 | 50 |" in page
    assert "this project: own, avx2." in page
    assert "llama.cpp was left out: the peers' environment is not there." in page
    assert (tmp_path / "bench_local.png").read_bytes().startswith(b"\x89PNG")


def test_names_of_tensors_are_those_of_gguf() -> None:
    assert gguf_name("model.layers.3.self_attn.q_proj.weight") == "blk.3.attn_q.weight"
    assert gguf_name("lm_head.weight") == "output.weight"


@pytest.mark.local
@pytest.mark.long
@pytest.mark.parametrize("name", [LLAMA_CPP, OPENVINO])
@pytest.mark.parametrize("kind", ["packaged", "written"])
def test_a_peer_answers_on_the_same_checkpoint(name: str, kind: str, tmp_path: Path) -> None:
    packaged = pytest.importorskip("apps.local.packaged")
    file = packaged.packaged_gguf()
    folder = tmp_path / "model"
    if kind == "written":
        sizes = {"vocab_size": 1000, "hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
        write_tiny_checkpoint(folder, **sizes)
        write(folder, file, tmp_path / "model.gguf")
        file = tmp_path / "model.gguf"
    checkpoint = Checkpoint("one", folder, lambda: file, Settings().model_cache_dir)
    try:
        with CONTENDERS[name](checkpoint, 2) as contender:
            answer = asyncio.run(ask(contender.server, said("What is Python?"), 6))
            assert contender.peak_bytes() > 1 << 20
    except NotHere as missing:
        pytest.skip(str(missing))
    assert answer.usage["completion_tokens"] == 6
    assert answer.text if kind == "packaged" else answer.deltas
