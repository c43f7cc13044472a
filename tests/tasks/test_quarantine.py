"""The repair of single lines, where a shard is computed by a process of its own."""

import json

from tasks.quarantine import find_quarantine, rejected_lines, retry_repairs
from tests.flows.doomed import SHARD, tokenize_or_end
from tests.pipeline import tokenized


def test_shards_with_repairs_are_computed_by_worker_processes(tmp_path, make_config, monkeypatch):
    """As in a run: the process of one shard dies, another takes its place, and both shards are repaired."""
    (tmp_path / "corpus").mkdir()
    for number in range(3):
        (tmp_path / f"corpus/{number}.jsonl").write_text(
            f'{{"text": "good"}}\n{{"text": {number}}}\n', encoding="utf-8"
        )
    _, _, store = tokenized(make_config())
    lines = list(rejected_lines(find_quarantine(make_config()), store))
    entries = [line.entry() | {"replacement": f'{{"text": "{line.line}"}}'} for line in lines[1:]]
    (tmp_path / "repairs.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")

    monkeypatch.setattr("tasks.computing.PROCESSES_PAY_FROM_BYTES", 0)
    monkeypatch.setattr("tasks.computing.tokenize_shard", tokenize_or_end)
    monkeypatch.setenv("CPT_TEST_DOOM", f"SIGKILL 1 {tmp_path}")
    retried = retry_repairs(make_config(tokenization={"repairs": str(tmp_path / "repairs.jsonl")}), tell=print)
    assert [(each.shard.name, each.repaired) for each in retried] == [(SHARD, 1), ("a-00002", 1)]
    assert [path.name for path in tmp_path.glob("end-*")] == ["end-0"]
