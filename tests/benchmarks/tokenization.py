"""Tokenization: jsonl on disk -> token shards on disk, and engines alone on documents in memory."""

import os
from pathlib import Path
from typing import Any

from tests.benchmarks.materials import FOLDER, acl2_corpus, tokenizer_folder
from tests.benchmarks.measure import Contender, Subject

PART_BYTES, QUICK_PART_BYTES = 45_000_000, 10_000_000
SHARD_SIZE_BYTES = 8_000_000
"""Small enough that two workers have work to the end."""
SCRIPTS = "scripts' way"
BARE = "pyarrow, gigatoken and parquet alone"

_NOTES = """
Corpus: the Lisp sources of acl2, Llama-3.1's tokenizer; MB of jsonl a second. The slower peers and engines take a part
of the corpus. This project has as many cores as processes or threads. "pyarrow, gigatoken and parquet alone" is one
process a core that reads JSON by pyarrow and writes parquet, without digests, quarantine, strict JSON, comparison of
engines, fsync or record. "In memory" means documents already parsed, and ids that are thrown away. The start of
processes and the loading of tokenizers are not timed for cpt and for gigatoken, whose memory of words is empty at the
start of each repeat. Shards are computed by processes: threads wait for one another's Python code, which parses lines
and counts.
"""


def subject(quick: bool) -> Subject:
    """Peers and engines; the contenders of this project stand first."""
    part = acl2_corpus(QUICK_PART_BYTES if quick else PART_BYTES)
    whole = acl2_corpus(PART_BYTES if quick else None)
    processes = os.cpu_count() or 1
    common = {"tokenizer": str(tokenizer_folder()), "processes": processes}
    slow, fast = common | {"corpus": str(part)}, common | {"corpus": str(whole)}
    halves = common | {"corpus": str(part), "folder": str(split_in_files(part, processes))}
    return Subject(
        name="tokenization",
        title="Tokenization",
        unit="MB/s",
        contenders=[
            *[_own(fast, number, "process" if number == 1 else "processes") for number in sorted({1, processes})],
            _own(fast, processes, "threads"),
            Contender(BARE, "tokenize_bare", fast | {"folder": str(split_in_files(whole, processes))}),
            Contender(SCRIPTS, "tokenize_peers", slow | {"method": "scripts"}, is_peer=True),
            Contender("datatrove DocumentTokenizer", "tokenize_peers", halves | {"method": "datatrove"}, is_peer=True),
            Contender(
                "tokenizers alone, in memory, all cores",
                "tokenize_peers",
                slow | {"method": "tokenizers"},
                is_peer=True,
            ),
            *[
                Contender(
                    f"gigatoken alone, in memory, {number} process{'es' if number > 1 else ''}",
                    "tokenize_peers",
                    fast | {"method": "gigatoken", "processes": number},
                    is_peer=True,
                )
                for number in sorted({1, processes})
            ],
        ],
        baseline=SCRIPTS,
        facts={"tokens": "tokens"},
        notes=_NOTES.strip(),
    )


def _own(common: dict[str, Any], workers: int, kind: str) -> Contender:
    arguments = common | {"workers": workers, "threads": kind == "threads", "shard_size_bytes": SHARD_SIZE_BYTES}
    return Contender(f"cpt, {workers} {kind}", "tokenize_ours", arguments)


def split_in_files(corpus: Path, number: int) -> Path:
    """A folder with the corpus in so many files: datatrove gives each of its tasks whole files."""
    folder = FOLDER / f"{corpus.stem}-in-{number}"
    if not folder.exists():
        lines = corpus.read_bytes().splitlines(keepends=True)
        unfinished = folder.with_suffix(".unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        for position in range(number):
            (unfinished / f"{position}.jsonl").write_bytes(b"".join(lines[position::number]))
        unfinished.rename(folder)
    return folder
