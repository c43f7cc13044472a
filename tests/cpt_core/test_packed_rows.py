"""What training and evaluation see of a row."""

import re
from pathlib import Path

import numpy as np
import psutil
import pytest

from cpt_core.errors import StoreError
from cpt_core.indexing import build_index
from cpt_core.packed_rows import OPEN_SHARDS, PackedRows, Row, empty_row, labels, position_ids
from cpt_core.packing import pack_group, plan_pack_groups
from cpt_core.storage import Store
from tests.conftest import byte_ids, write_jsonl
from tests.pipeline import packed, tokenized


def test_positions_restart_at_every_segment():
    """The padding, too, is a segment of its own."""
    assert position_ids(np.array([3, 1, 2], dtype=np.int32)).tolist() == [0, 1, 2, 0, 0, 1]


def test_labels_stop_at_borders_and_padding_but_not_at_an_eos_that_is_also_the_pad():
    """First tokens are never predicted from another document; the EOS (1) of each document is, the padding (1) not."""
    row = Row(
        input_ids=np.array([0, 5, 1, 0, 6, 1, 1, 1]), seq_lengths=np.array([3, 3, 2], dtype=np.int32), num_tokens=6
    )
    assert labels(row).tolist() == [-100, 5, 1, -100, 6, 1, -100, -100]
    assert row.input_ids.tolist() == [0, 5, 1, 0, 6, 1, 1, 1], "the row itself is left as it was"


def test_an_empty_row_trains_nothing():
    """It fills the last step."""
    assert labels(empty_row(4, pad_id=1)).tolist() == [-100] * 4


def test_rows_are_numbered_over_all_shards(tmp_path, make_config):
    """Row n is found in whichever shard holds it, in any order of asking."""
    for number in range(9):
        write_jsonl(tmp_path / f"corpus/{number}.jsonl", [f"{number}{number}"] * 4)
    config = make_config(packing={"row_len_tokens": 4, "group_size_tokens": 30})
    artifacts = packed(config)
    rows = PackedRows(Store(config.store_uri), artifacts)
    assert len(artifacts) > 1
    assert len(rows) == 36
    wanted = sorted([0, *byte_ids(f"{number}{number}"), 1] for number in range(9) for _ in range(4))
    assert sorted(rows[row].input_ids.tolist() for row in reversed(range(36))) == wanted
    assert rows[7].seq_lengths.tolist() == [4]


def test_thousands_of_packed_shards_need_no_thousands_of_open_files(tmp_path, make_config):
    """Files are closed again as others are opened, whatever the order of rows."""
    write_jsonl(tmp_path / "corpus/a.jsonl", ["ab", "cd"])
    config = make_config(packing={"row_len_tokens": 4})
    artifacts = packed(config)
    rows = PackedRows(Store(config.store_uri), artifacts * 2000)
    before = psutil.Process().num_fds()
    wanted = [rows[row].input_ids.tolist() for row in (0, 1)]
    for row in np.random.default_rng(0).permutation(len(rows))[:400]:
        assert rows[int(row)].input_ids.tolist() == wanted[row % 2]
    assert len(rows) == 4000
    assert psutil.Process().num_fds() <= before + OPEN_SHARDS


DAMAGED = "cannot be read: .*CRC.*; it is damaged: set it aside with `cpt verify CONFIG --repair`, then run again"


def flip_a_byte(path: Path) -> str:
    """One byte of the ids, of which the lowest stand side by side; the name of the file for a pattern."""
    content = bytearray(path.read_bytes())
    content[content.index(bytes([0, 102, 104, 106])) + 1] ^= 1
    path.write_bytes(content)
    return re.escape(str(path))


def test_a_damaged_packed_shard_is_one_line_that_names_it(tmp_path, make_config):
    """Whoever trains reads it by its pages, each with a checksum; one that is gone is named as well."""
    write_jsonl(tmp_path / "corpus/a.jsonl", ["dfh"])
    config = make_config(packing={"row_len_tokens": 5})
    (artifact,) = packed(config)
    path = Path(artifact.uri) / artifact.files["rows"].name
    named = flip_a_byte(path)
    with pytest.raises(StoreError, match=f"^{named}: {DAMAGED}$"):
        PackedRows(Store(config.store_uri), [artifact])[0]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match=f"^{named}: cannot be read: .*; it is damaged: set it aside with"):
        PackedRows(Store(config.store_uri), [artifact])[0]
    path.unlink()
    with pytest.raises(StoreError, match=f"^{named}: is gone; run the packing again$"):
        PackedRows(Store(config.store_uri), [artifact])[0]


def test_a_damaged_token_shard_is_one_line_that_names_it(tmp_path, make_config):
    """Packing reads it by its pages, too."""
    write_jsonl(tmp_path / "corpus/a.jsonl", ["dfh"])
    config = make_config()
    ((shard, *_), _, store) = tokenized(config)
    index = build_index([shard], config, store=store)
    (group,) = plan_pack_groups(index, {("a", 0): shard.tokens}, {"a": 0.0}, 100, store=store)
    named = flip_a_byte(Path(shard.tokens.uri) / shard.tokens.files["tokens"].name)
    with pytest.raises(StoreError, match=f"^{named}: {DAMAGED}$"):
        pack_group(group, config.packing, index=index, pad_id=1, store=store)
