"""Reading packed rows in random order, as training does."""

import os

from tests.benchmarks.contenders.pack_ours import pack
from tests.benchmarks.materials import acl2_corpus
from tests.benchmarks.measure import Contender, Subject
from tests.benchmarks.packing import QUICK_CORPUS_BYTES
from tests.benchmarks.prepared import prepare

ROWS_OF_AN_EPOCH, QUICK_ROWS_OF_AN_EPOCH = 10_000_000, 1_000_000

_NOTES = """
One process reads rows in the order of training and makes the arrays that a model takes: ids, positions, labels. The
packed shards of the corpus are listed as often as an epoch of that many rows needs, so that nearly every row is in
another file than the one before. "Start of an epoch" is the time to know the rows of its first step.
"""


def subject(quick: bool) -> Subject:
    """Ours alone: peers shuffle before they start, or keep a list of the order."""
    prepared = prepare([str(acl2_corpus(QUICK_CORPUS_BYTES if quick else None))])
    pack(prepared, prepared.config.packing, workers=os.cpu_count() or 1)  # the contender finds it in the store
    arguments = {
        "config": prepared.config.model_dump(mode="json"),
        "rows_of_an_epoch": QUICK_ROWS_OF_AN_EPOCH if quick else ROWS_OF_AN_EPOCH,
        "rows_read": 300 if quick else 1000,
    }
    return Subject(
        name="reading",
        title="Training input, rows in random order",
        unit="M tokens/s a process",
        contenders=[Contender("cpt, packed shards on disk", "read_rows", arguments)],
        facts={
            "rows": "rows of an epoch",
            "packed_shards": "packed shards",
            "ms_a_row": "ms a row",
            "times_a_gpu": "× a GPU at 20,000 tokens/s",
            "epoch_start_ms": "start of an epoch, ms",
        },
        notes=_NOTES.strip(),
    )
