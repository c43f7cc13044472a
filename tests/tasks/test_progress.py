"""What is told of a stage that takes long."""

from dataclasses import replace

import pytest

from cpt_core.artifacts import Artifact
from cpt_core.discovery import DiscoveryProgress
from cpt_core.manifest import Shard
from cpt_core.tokenization import ShardProgress
from tasks import listening, progress
from tasks.progress import TimeLeft, describe_seconds
from tasks.throughput import Reading, Throughput


def test_the_time_left_counts_from_the_first_sign_of_progress(clock):
    """A run that goes on at 40 % has not done these 40 % now; 10 % a minute are five minutes for the rest."""
    left = TimeLeft()
    assert left.after(0.4) == ""
    clock(60)
    assert left.after(0.5) == ", 5 min 0 s left"
    clock(300)
    assert left.after(1.0) == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_seconds_are_told_in_two_units(seconds, text):
    """Nobody needs the seconds of an hour."""
    assert describe_seconds(seconds) == text


def shard(ordinal: int, size_bytes: int) -> Shard:
    """A file."""
    return Shard(
        "a", ordinal, f"{ordinal}.jsonl", "jsonl", "text", 0, size_bytes, size_bytes, 1, {"sha256": str(ordinal)}
    )


def token_shard(documents: int, tokens: int) -> Artifact:
    """What became of it."""
    counts = {"documents_out": documents, "tokens": tokens}
    return Artifact("tokens", "a", "k", {}, {}, counts, 1.0, "0", "tokens/a", "store")


def test_throughput_counts_running_and_finished_shards_once(clock):
    """Two of three shards had to be read: one is done, one is half done; the third came from the store."""
    done, running, cached = shard(0, 3_000_000), shard(1, 2_000_000), shard(2, 9_000_000)
    seen = Throughput([done, running])
    clock(2)
    seen.note(done, ShardProgress(5, 50, 2_500_000))
    seen.note(done, ShardProgress(6, 60, 3_000_000))
    seen.finish(done, token_shard(6, 60))
    seen.note(running, ShardProgress(1, 10, 1_000_000))
    seen.finish(cached, replace(token_shard(100, 1000), is_cached=True))
    assert seen.line() == "107 documents, 1,070 tokens, 2.0 MB/s"
    assert seen.fraction() == 0.8
    seen.note(done, ShardProgress(1, 10, 500_000))  # news that comes late
    assert seen.line() == "107 documents, 1,070 tokens, 2.0 MB/s"


def test_what_is_remembered_is_no_speed(clock):
    """Of 300 MB a third is identified from before; 50 MB take two seconds."""
    reading = Reading()
    assert reading.line(DiscoveryProgress(1, 3, 100_000_000, 300_000_000)) == "100.0 of 300.0 MB, 0.0 MB/s"
    clock(2)
    assert reading.line(DiscoveryProgress(1, 3, 150_000_000, 300_000_000)) == "150.0 of 300.0 MB, 25.0 MB/s"


def test_listeners_hear_every_move_and_the_end(monkeypatch):
    """Outside of a run there is no artifact, and nothing fails."""
    heard: list[listening.Progress] = []
    monkeypatch.setattr(listening, "_listeners", [heard.append])
    stage = progress.StageProgress("tokenization", 2, "shards")
    stage.advance(0, "half of a shard", 0.25)
    stage.remark("by another engine")
    stage.advance(1, "a shard", 0.5)
    stage.finish("2 shards computed")
    assert [(state.done, state.detail, state.is_remark, state.is_finished) for state in heard] == [
        (0, "", False, False),
        (0, "half of a shard", False, False),
        (0, "by another engine", True, False),
        (1, "a shard", False, False),
        (2, "2 shards computed", False, True),
    ]
