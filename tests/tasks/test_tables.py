"""Rows of tables, of what has more of something than a page should hold."""

from cpt_core.artifacts import Artifact
from cpt_core.manifest import Manifest, Shard
from tasks.tables import rejected_lines


def _shard(number: int) -> Shard:
    return Shard("web", number, f"/corpus/{number:05d}.jsonl", "jsonl", "text", 0, 9, 9, 1, {"sha256": "ab"})


def _tokens(reasons: dict[str, int]) -> Artifact:
    counts = {"quarantined_by_reason": reasons}
    return Artifact("tokens", "web", "key", {}, {}, counts, 0.1, "0.1.0", "tokens/web", "/store")


def test_files_with_rejected_lines_are_named_up_to_a_thousand() -> None:
    """Files without any are left out, and so is a shard that failed; the rest is summed up in the last row."""
    manifest = Manifest(tuple(map(_shard, range(1005))), files=1005, bytes_read=0)
    tokens = {shard.name: _tokens({"json_syntax": 2, "empty_text": 1}) for shard in manifest.shards}
    tokens["web-00000"] = _tokens({})
    del tokens["web-00001"]
    rows = rejected_lines(manifest, tokens)
    assert rows[0] == {"file": "/corpus/00002.jsonl", "rejected": "3", "by reason": "1 empty_text, 2 json_syntax"}
    assert rows[999] == {"file": "/corpus/01001.jsonl", "rejected": "3", "by reason": "1 empty_text, 2 json_syntax"}
    assert rows[1000:] == [{"file": "3 more files", "rejected": "9", "by reason": ""}]
