"""The local model's bench, as far as it is arithmetic and text."""

from pathlib import Path

import pytest

from eval import bench_report
from eval.bench_client import Timed, decode_speed

STOCK = {"prefill_128": 200.0, "prefill_512": 250.0, "decode": 10.0, "peak_bytes": 2_500_000_000, "start_seconds": 4.0}
ENGINE = {
    "prefill_128": 600.0,
    "prefill_512": 500.0,
    "peak_bytes": 900_000_000,
    "cold_seconds": 9.0,
    "warm_seconds": 1.5,
    "first_token": 0.05,
    "gap": 0.2,
    **{f"{kind}_{callers}": 75.0 * callers for kind in ("decode", "whole") for callers in (1, 4, 8, 16)},
}


def test_decoding_counts_from_the_last_caller_s_first_token_to_the_first_one_s_end() -> None:
    early = Timed(0.0, [1.0, 2.0, 3.0, 4.0], {"completion_tokens": 4})
    late = Timed(0.0, [2.0, 3.0, 4.0, 5.0], {"completion_tokens": 8})  # two tokens to a delta
    assert decode_speed([early, late]) == (2 + 4) / 2
    assert decode_speed([early]) == 1
    assert decode_speed([Timed(0.0, [1.0], {"completion_tokens": 1})]) == 0


def test_the_report_is_a_table_with_ratios_and_a_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib comes with requirements-dev.txt")
    bench_report.write({"Some model": {"stock bf16": STOCK, "stock fp32": STOCK, "engine": ENGINE}}, tmp_path)
    page = (tmp_path / "bench_local.md").read_text(encoding="utf-8")
    assert "| prefill of 128 tokens, tokens/s | 200.0 | 200.0 | 600.0 | 3.0 | 3.0 |" in page
    assert "| decode, callers: 16, tokens/s | 10.0 | 10.0 | 1200.0 | 120.0 | 120.0 |" in page
    assert "cold 9.0, warm 1.5" in page
    assert (tmp_path / "bench_local.png").read_bytes().startswith(b"\x89PNG")
