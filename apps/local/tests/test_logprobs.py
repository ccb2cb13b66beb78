import math

import pytest

from apps.core.deltas import TokenLogprob
from apps.local.detokenizer import PendingLogprobs
from apps.local.engine.decoding import LEAST, LogprobRecorder

np = pytest.importorskip("numpy", reason="numpy comes with requirements-local.txt")
SPELLED = [b"a", b"b", b"\xc3", b"d"]


def test_log_probabilities_are_of_the_whole_distribution_and_the_likeliest_stand_first() -> None:
    probabilities = [0.1, 0.6, 0.25, 0.05]
    recorder = LogprobRecorder(2, SPELLED.__getitem__)
    entry = recorder.entry(np.log(np.array(probabilities, np.float32)) + 7, 3)
    assert entry.token == "d" and entry.logprob == pytest.approx(math.log(0.05), rel=1e-5)
    assert [other.raw for other in entry.top] == [b"b", b"\xc3"]
    assert entry.top[1].token == "\ufffd" and entry.top[1].logprob == pytest.approx(math.log(0.25), rel=1e-5)


def test_no_alternatives_and_more_than_there_are_tokens() -> None:
    for top, expected in ((0, 0), (20, 4)):
        recorder = LogprobRecorder(top, SPELLED.__getitem__)
        assert len(recorder.entry(np.zeros(4, np.float32), 0).top) == expected


def test_what_json_cannot_say_becomes_the_least() -> None:
    recorder = LogprobRecorder(4, SPELLED.__getitem__)
    assert recorder.entry(np.array([0.0, -np.inf, 0.0, 0.0], np.float32), 1).logprob == LEAST


def test_entries_wait_for_the_text_of_their_tokens() -> None:
    pending = PendingLogprobs()
    entries = [TokenLogprob(raw.decode(), raw, -1.0) for raw in (b"ab", b"cd", b"ef")]
    pending.add(entries)
    assert pending.take("") == ()
    assert pending.take("abc") == (entries[0], entries[1])
    assert pending.take("d") == ()
    assert pending.take("e") == (entries[2],)
    pending.add(entries)
    assert pending.rest() == tuple(entries) and pending.rest() == ()


def test_tokens_that_are_asked_for_stand_in_place_of_the_likeliest_with_the_chosen_one() -> None:
    row = np.log(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    entry = LogprobRecorder(3, SPELLED.__getitem__, (2, 0, 4000)).entry(row, 1)
    assert [other.id for other in entry.top] == [2, 1, 0]
    assert [other.logprob for other in entry.top] == pytest.approx([float(row[2]), float(row[1]), float(row[0])])
