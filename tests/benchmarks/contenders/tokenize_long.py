"""This project's tokenization of one long document."""

import hashlib
import json
import re
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cpt_core.config import TokenizationConfig
from cpt_core.manifest import Shard
from cpt_core.storage import Store
from cpt_core.tokenization import load_tokenizer, tokenize_shard
from cpt_core.tokenization.tokenizer import forget_engines
from tests.benchmarks.measure import tell

BACKEND = "gigatoken"
WHITE_SPACE = re.compile(r"\s+")


def main(arguments: dict[str, Any]) -> None:
    """Tokenize as often as asked, each time into an empty store and by an engine that has not met a word yet."""
    scratch = Path(arguments["scratch"])
    shard = write_document(scratch / "long.jsonl", arguments)
    config = TokenizationConfig(tokenizer=arguments["tokenizer"])
    tokenizer = replace(load_tokenizer(config), backend=BACKEND)
    seconds = []
    for _ in range(arguments["repeats"]):
        shutil.rmtree(scratch / "store", ignore_errors=True)
        forget_engines()
        tokenizer.engine()
        started = time.perf_counter()
        tokens = tokenize_shard(shard, config, tokenizer=tokenizer, store=Store(str(scratch / "store")))
        seconds.append(time.perf_counter() - started)
    tell(
        [shard.size_bytes / 1e6 / each for each in seconds],
        seconds=round(sorted(seconds)[len(seconds) // 2], 2),
        tokens=tokens.counts["tokens"],
        quarantined=", ".join(tokens.counts["quarantined_by_reason"]),
    )


def write_document(path: Path, arguments: dict[str, Any]) -> Shard:
    """One line that is one document."""
    size = int(arguments["size_mb"] * 1_000_000)
    text = "a" * size if arguments["kind"] == "one character" else text_of(arguments, size)
    content = json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n"
    path.write_bytes(content)
    identity = {"sha256": hashlib.sha256(content).hexdigest()}
    return Shard("long", 0, str(path), "jsonl", "text", 0, len(content), len(content), 1, identity)


def text_of(arguments: dict[str, Any], size: int) -> str:
    """The first characters of a corpus, with or without its white space."""
    parts: list[str] = []
    characters = 0
    with Path(arguments["corpus"]).open("rb") as lines:
        while characters < size:
            text = json.loads(next(lines))["text"]
            parts.append(WHITE_SPACE.sub("", text) if arguments["kind"] == "unbroken" else text)
            characters += len(parts[-1])
    return "".join(parts)[:size]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
