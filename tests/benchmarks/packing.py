"""Packing: token shards on disk -> packed rows on disk; and the planning of rows alone."""

import os

from tests.benchmarks.materials import acl2_corpus
from tests.benchmarks.measure import Contender, Subject
from tests.benchmarks.prepared import prepare
from tests.conftest import SHARED

ROW_LEN_TOKENS = 8192
QUICK_CORPUS_BYTES = 30_000_000
PLANNED_DOCUMENTS, QUICK_PLANNED_DOCUMENTS = 10_000_000, 1_000_000
SCRIPTS = "scripts' grouping"
PARQUET_ALONE = "pyarrow alone, read and write"

_NOTES = """
Corpus: the Lisp sources of acl2 (Debian's acl2-books-source), Llama-3.1 tokens with BOS and EOS. Timed from parquet
token shards to parquet rows; for this project that includes the plan, digests, fsync and the committed record.
"pyarrow alone" is what reading and writing the same ids costs by itself, on as many cores. The scripts' grouping is
next-fit in batches of 1,000 documents whose remainder is padded, long documents chopped with padded tails, as
`datasets.map` over one process a core; "grouping alone" is that call without reading and writing parquet. "Documents
cut" are documents that would have fitted a row. Padding of peers that write short rows is what fills them. TRL's bfd
drops what is beyond a row of a longer document, its bfd_split keeps it; wrapped is concat-and-chunk. Peak RSS is of
the process and its children together.
"""


def subject(quick: bool) -> Subject:
    """Ours beside the scripts' way and TRL."""
    prepared = prepare([str(acl2_corpus(QUICK_CORPUS_BYTES if quick else None))])
    common = {"files": prepared.token_files, "row_len_tokens": ROW_LEN_TOKENS, "processes": os.cpu_count()}
    own = {"config": prepared.config.model_dump(mode="json"), "workers": os.cpu_count()}
    contenders = [
        Contender("cpt, best_fit", "pack_ours", own | {"strategy": "best_fit"}),
        Contender("cpt, greedy", "pack_ours", own | {"strategy": "greedy"}),
        Contender("cpt, concat", "pack_ours", own | {"strategy": "concat"}),
        Contender(PARQUET_ALONE, "parquet_alone", common),
        Contender(SCRIPTS, "pack_peers", common | {"method": "scripts"}, is_peer=True),
        Contender("TRL pack_dataset, bfd", "pack_peers", common | {"method": "bfd"}, is_peer=True),
        Contender("TRL pack_dataset, bfd_split", "pack_peers", common | {"method": "bfd_split"}, is_peer=True),
        Contender("TRL pack_dataset, wrapped", "pack_peers", common | {"method": "wrapped"}, is_peer=True),
    ]
    gsm8k = [str(path) for path in sorted((SHARED / "corpora").glob("gsm8k-*"))]
    if gsm8k:
        short = prepare(gsm8k).config.model_dump(mode="json")
        contenders.append(
            Contender("cpt, best_fit, GSM8K", "pack_ours", own | {"strategy": "best_fit", "config": short})
        )
    return Subject(
        name="packing",
        title=f"Packing into rows of {ROW_LEN_TOKENS:,}",
        unit="M tokens/s",
        contenders=contenders,
        baseline=SCRIPTS,
        facts={
            "padding": "padding",
            "rows": "rows",
            "fewest_rows": "fewest thinkable",
            "documents_cut": "documents cut",
            "tokens_lost": "tokens lost",
            "grouping_alone": "grouping alone, M tokens/s",
        },
        notes=_NOTES.strip(),
    )


def planning_subject(quick: bool) -> Subject:
    """Which document goes to which row, without its tokens."""
    documents = QUICK_PLANNED_DOCUMENTS if quick else PLANNED_DOCUMENTS
    arguments = {"documents": documents, "row_len_tokens": ROW_LEN_TOKENS}
    return Subject(
        name="planning",
        title=f"Planning and assigning {documents:,} documents",
        unit="M documents/s",
        contenders=[
            Contender("log-normal lengths", "plan_rows", arguments | {"lengths": "log-normal"}),
            Contender("lengths of 53 to 460", "plan_rows", arguments | {"lengths": "short"}),
        ],
        facts={"rows": "rows", "fewest_rows": "fewest thinkable", "padding": "padding"},
        notes="One thread. No document is cut that fits a row.",
    )
