"""What training and evaluation see of a row."""

import numpy as np

from cpt_core.packed_rows import PackedRows, Row, empty_row, labels, position_ids
from cpt_core.storage import Store
from tests.conftest import byte_ids, write_jsonl
from tests.pipeline import packed


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
