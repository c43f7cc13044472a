"""The data stages under many circumstances that must not matter, each in a process of its own.

``python -m tests.determinism JOB`` is such a process: it runs the stages as the job says and prints what the store
holds then.
"""

import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from numpy._core._multiarray_umath import __cpu_dispatch__

from cpt_core.config import PipelineConfig
from cpt_core.discovery import discover_sources
from cpt_core.fingerprint import unsealed_json
from cpt_core.indexing import TokenizedShard, build_index
from cpt_core.packing import pack_group, plan_pack_groups
from cpt_core.storage import Store
from cpt_core.tokenization import load_tokenizer, tokenize_shard
from cpt_core.workers import WorkerPool
from tests.conftest import REPOSITORY

REAL_SCANDIR, REAL_LISTDIR = os.scandir, os.listdir
FAR_AWAY = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "TZ": "Asia/Kathmandu"}
NO_VECTOR_UNITS = {"NPY_DISABLE_CPU_FEATURES": " ".join(__cpu_dispatch__), "ARROW_USER_SIMD_LEVEL": "NONE"}


@dataclass(frozen=True)
class Circumstances:
    """What a run must not depend on.

    Attributes:
        name: in words.
        workers: shards, and then groups, computed at the same time.
        in_processes: shards are computed by worker processes instead of threads.
        backend: engine that encodes.
        shuffled: folders are listed in another order each time.
        elsewhere: the corpus lies under another path, written in another order, and so does the store.
        umask: of the process.
        environment: variables of the process.
    """

    name: str
    workers: int = 1
    in_processes: bool = False
    backend: str = "huggingface"
    shuffled: bool = False
    elsewhere: bool = False
    umask: int = 0o022
    environment: dict[str, str] = field(default_factory=dict)


ORDINARY = Circumstances("one worker", environment={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"})
VARIATIONS = [
    Circumstances("two threads", workers=2, environment={"PYTHONHASHSEED": "1"}),
    Circumstances("eight threads", workers=8, environment={"PYTHONHASHSEED": "random", "POLARS_MAX_THREADS": "8"}),
    Circumstances("eight processes", workers=8, in_processes=True, environment={"PYTHONHASHSEED": "random"}),
    Circumstances("the other engine, two processes", workers=2, in_processes=True, backend="gigatoken"),
    Circumstances("shuffled listings, umask 077", workers=2, shuffled=True, umask=0o077),
    Circumstances("another path and store, files written in another order", elsewhere=True),
    Circumstances("the C locale with ASCII file names, a far time zone", environment=FAR_AWAY),
    Circumstances("no vector units", environment={**NO_VECTOR_UNITS, "POLARS_MAX_THREADS": "1"}),
]


def write_scene(folder: Path, *, backwards: bool = False) -> Path:
    """A corpus with everything that could tell circumstances apart, and its configuration: the path of that.

    Args:
        folder: where.
        backwards: the files are written in another order.
    """
    files = _files()
    for name in reversed(files) if backwards else files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(files[name])
    sources = [
        {"name": "plain", "uris": [str(folder / "plain")], "held_out_fraction": 0.3},
        {"name": "other", "uris": [str(folder / "other")]},
    ]
    config = {
        "name": "scene",
        "store_uri": "replaced",
        "discovery": {"sources": sources},
        "tokenization": {
            "tokenizer": str(REPOSITORY / "deployments/models/demo-base"),
            "shard_size_bytes": 4096,
            "max_bad_fraction": 1.0,
        },
        "packing": {"row_len_tokens": 64, "group_size_tokens": 1500},
    }
    path = folder / "scene.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def _files() -> dict[str, bytes]:
    """Name to content: a cut file, compressed ones, a table, names in odd order, bad lines, long and equal lengths."""
    words = ["def", "return", "naïve", "日本語", "🧑\u200d🔬", "é́", "<s>", "12345", "lambda"]
    drawn = random.Random(3407)

    def lines(number: int) -> bytes:
        texts = [" ".join(drawn.choices(words, k=drawn.choice([3, 3, 3, 8, 20, 90]))) for _ in range(number)]
        good = [json.dumps({"text": text}, ensure_ascii=False).encode() for text in texts]
        return b"\n".join([*good[:5], b'{"text": 5}', b'{"text": "cut', b"", *good[5:]]) + b"\n"

    table = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": [" ".join(drawn.choices(words, k=7)) for _ in range(30)] + [None]}), table)
    return {
        "plain/b.jsonl": lines(120),
        "plain/B.jsonl": lines(10),
        "plain/sub/é.jsonl": lines(10),
        "plain/a b.jsonl": b"",
        "other/1.jsonl.gz": gzip.compress(lines(40), mtime=0),
        "other/10.jsonl.zst": zstandard.compress(lines(40)),
        "other/9.parquet": table.getvalue().to_pybytes(),
        "other/Z/0.jsonl": b"\xef\xbb\xbf" + lines(20),
    }


def contents_under(circumstances: Circumstances, config: Path, store: Path) -> dict[str, object]:
    """Run the stages in a process of its own; what the store holds then, see ``contents``."""
    job = {"config": str(config), "store": str(store), "circumstances": asdict(circumstances)}
    result = subprocess.run(
        [sys.executable, "-m", "tests.determinism", json.dumps(job)],
        cwd=REPOSITORY,
        env=os.environ | circumstances.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(f"{circumstances.name}: {result.stderr}")
    return json.loads(result.stdout)


def contents(store: Path, engine: str) -> dict[str, object]:
    """Digest of every data file by its name; of every record all but how long it took and which engine encoded."""
    found: dict[str, object] = {}
    for stage in ("tokens", "index", "packed"):
        for path in sorted((store / stage).rglob("*.*")):
            name = str(path.relative_to(store))
            if path.name == "artifact.json":
                record = unsealed_json(path.read_bytes())
                del record["seconds"]
                assert record["counts"].pop("tokenizer_backend", engine) == engine
                found[name] = record
            elif path.is_file():
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def run(config: PipelineConfig, circumstances: Circumstances) -> None:
    """The data stages, as many units at a time as there are workers."""
    store = Store(config.store_uri)
    tokenizer = replace(load_tokenizer(config.tokenization), backend=circumstances.backend)
    manifest = discover_sources(
        config.discovery, config.tokenization.shard_size_bytes, store=store, workers=circumstances.workers
    )
    with (
        ThreadPoolExecutor(circumstances.workers) as threads,
        WorkerPool(circumstances.workers, silence_seconds=120) as processes,
    ):

        def tokenize(shard):
            arguments = {"shard": shard, "config": config.tokenization, "tokenizer": tokenizer, "store": store}
            if circumstances.in_processes:
                tokens = processes.call(tokenize_shard, arguments, on_progress=lambda _: None)
            else:
                tokens = tokenize_shard(**arguments)
            return TokenizedShard(shard.source, shard.ordinal, tokens)

        shards = list(threads.map(tokenize, manifest.shards))
        index = build_index(shards, config, store=store)
        groups = plan_pack_groups(
            index,
            {(shard.source, shard.ordinal): shard.tokens for shard in shards},
            {source.name: source.held_out_fraction for source in config.discovery.sources},
            config.packing.group_size_tokens,
            store=store,
        )

        def pack(group):
            return pack_group(group, config.packing, index=index, pad_id=tokenizer.pad_id, store=store)

        assert len(list(threads.map(pack, groups))) > 3


class _ShuffledEntries:
    """What os.scandir gives, in another order: an iterator that is closed like a file."""

    def __init__(self, *arguments: str) -> None:
        with REAL_SCANDIR(*arguments) as entries:
            found = list(entries)
        random.shuffle(found)
        self._entries = iter(found)

    def __iter__(self):
        return self

    def __next__(self) -> os.DirEntry:
        return next(self._entries)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is open."""


def _shuffled_listdir(*arguments: str) -> list[str]:
    return random.sample(found := REAL_LISTDIR(*arguments), len(found))


def main() -> None:
    """One run, as the job on the command line says."""
    job = json.loads(sys.argv[1])
    circumstances = Circumstances(**job["circumstances"])
    os.umask(circumstances.umask)
    values = json.loads(Path(job["config"]).read_bytes()) | {"store_uri": job["store"]}
    config = PipelineConfig.model_validate(values)
    if circumstances.shuffled:
        os.scandir, os.listdir = _ShuffledEntries, _shuffled_listdir
    run(config, circumstances)
    print(json.dumps(contents(Path(job["store"]), circumstances.backend)))


if __name__ == "__main__":
    main()
