"""Peers' tokenization: runs in their environment and imports nothing of this project."""

import json
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH_TEXTS = 256


def scripts(arguments: dict[str, Any], scratch: Path) -> tuple[float, int]:
    """`datasets.map` with AutoTokenizer, one process a core, to parquet."""
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_caching()
    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(arguments["tokenizer"])

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        ids = tokenizer(batch["text"], add_special_tokens=False)["input_ids"]
        return {"input_ids": [[tokenizer.bos_token_id, *each, tokenizer.eos_token_id] for each in ids]}

    started = time.perf_counter()
    texts = datasets.load_dataset(
        "json", data_files=arguments["corpus"], split="train", cache_dir=str(scratch / "cache")
    )
    tokenized = texts.map(tokenize, batched=True, num_proc=arguments["processes"], remove_columns=texts.column_names)
    tokenized.to_parquet(scratch / "tokens.parquet")
    seconds = time.perf_counter() - started
    return seconds, sum(len(ids) for batch in tokenized.with_format("numpy").iter(1000) for ids in batch["input_ids"])


def datatrove(arguments: dict[str, Any], scratch: Path) -> tuple[float, int]:
    """JsonlReader and DocumentTokenizer, one task and one worker a core."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    tokenizer = str(Path(arguments["tokenizer"]) / "tokenizer.json")
    executor = LocalPipelineExecutor(
        pipeline=[
            JsonlReader(arguments["folder"], text_key="text"),
            DocumentTokenizer(
                str(scratch / "tokens"),
                tokenizer_name_or_path=tokenizer,
                eos_token="<|eot_id|>",
                shuffle_documents=False,
            ),
        ],
        tasks=arguments["processes"],
        workers=arguments["processes"],
        logging_dir=str(scratch / "logs"),
    )
    started = time.perf_counter()
    executor.run()
    seconds = time.perf_counter() - started
    token_bytes = 4  # of a vocabulary beyond 65,536 ids
    return seconds, sum(path.stat().st_size for path in (scratch / "tokens").glob("*.ds")) // token_bytes


def tokenizers(arguments: dict[str, Any], _: Path) -> tuple[float, int]:
    """`encode_batch_fast` on texts in memory, with its own threads."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(arguments["tokenizer"]) / "tokenizer.json"))
    texts = read_texts(arguments["corpus"])
    started = time.perf_counter()
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    seconds = time.perf_counter() - started
    return seconds, sum(len(encoding) for encoding in encodings)


def gigatoken(arguments: dict[str, Any], _: Path) -> tuple[float, int]:
    """The engine on texts in memory, a share of them in each process; the slowest process counts."""
    number = arguments["processes"]
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(number), context.Queue()
    workers = [
        context.Process(target=_encode_share, args=(arguments, position, number, barrier, results))
        for position in range(number)
    ]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return max(seconds for seconds, _ in found), sum(tokens for _, tokens in found)


def _encode_share(arguments: dict[str, Any], position: int, number: int, barrier: Any, results: Any) -> None:
    from gigatoken import Tokenizer

    settings = json.loads((Path(arguments["tokenizer"]) / "tokenizer.json").read_text())
    settings["added_tokens"] = [token for token in settings["added_tokens"] if not token["special"]]
    engine = Tokenizer.from_json(json.dumps(settings)).backend
    texts = read_texts(arguments["corpus"])[position::number]
    barrier.wait()
    started = time.perf_counter()
    encoded = [
        engine.encode_batch(texts[first : first + BATCH_TEXTS], parallel=False)
        for first in range(0, len(texts), BATCH_TEXTS)
    ]
    seconds = time.perf_counter() - started
    results.put((seconds, sum(len(batch.layout.content.data) for batch in encoded)))


def read_texts(corpus: str) -> list[str]:
    """The documents of a jsonl file."""
    with Path(corpus).open("rb") as lines:
        return [json.loads(line)["text"] for line in lines]


METHODS: dict[str, Callable[[dict[str, Any], Path], tuple[float, int]]] = {
    "scripts": scripts,
    "datatrove": datatrove,
    "tokenizers": tokenizers,
    "gigatoken": gigatoken,
}


def main(arguments: dict[str, Any]) -> None:
    """Tokenize as often as asked, each time anew."""
    size_mb = Path(arguments["corpus"]).stat().st_size / 1e6
    amounts, tokens = [], 0
    for _ in range(arguments["repeats"]):
        scratch = Path(arguments["scratch"]) / "peers"
        shutil.rmtree(scratch, ignore_errors=True)
        seconds, tokens = METHODS[arguments["method"]](arguments, scratch)
        amounts.append(size_mb / seconds)
    print(json.dumps({"amounts": amounts, "facts": {"tokens": tokens}}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
