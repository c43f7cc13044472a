"""A thousand malformed lines among a hundred thousand: every one is found, and nothing else."""

import json

from tests.pipeline import packed
from tests.planted_lines import FILES, MALFORMED, found, plant


def test_each_planted_line_is_found_and_each_good_one_is_kept(command, tmp_path):
    """1,000 of 25 kinds, with file, line, byte offset, reason and bytes; 99,000 texts; conservation is printed."""
    config, planted = plant(tmp_path, num_bad=1000)
    assert (len(MALFORMED), len(planted.rejected), len(planted.kept)) == (25, 1_000, 99_000)
    assert {line.file.rpartition("/")[2] for line in planted.rejected} == FILES.keys() - {"2.jsonl"}
    assert found(config) == planted

    packed(config)
    (tmp_path / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    summary = json.loads(command("prepare", "config.yaml", "--json").stdout)
    counted = ("documents_in", "documents_out", "documents_quarantined", "documents_repaired", "tokens_dropped")
    assert [summary[name] for name in counted] == [100_000, 99_000, 1_000, 0, 0]
