"""Tiny but real inputs of training: packed artifacts, a random Llama, a word-level tokenizer."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from cpt_core.artifacts import Artifact, Draft, commit
from cpt_core.schemas import PACKED_SHARD
from cpt_core.storage import Store
from tests.small_training import small_training

VOCAB_SIZE = 64
ROW_LEN_TOKENS = 16

PackedMaker = Callable[..., Artifact]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Models this small are slower with more threads, in this process and in those of jobs."""
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def llama_config() -> LlamaConfig:
    """A Llama of two layers."""
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, llama_config: LlamaConfig) -> Path:
    """A base model with weights, large enough that attention matters."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def config_only_folder(tmp_path_factory: pytest.TempPathFactory, llama_config: LlamaConfig) -> Path:
    """A base model that is only a configuration, with tied embeddings."""
    folder = tmp_path_factory.mktemp("config")
    LlamaConfig(**{**llama_config.to_dict(), "tie_word_embeddings": True}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 64 words."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer(models.WordLevel({f"w{word}": word for word in range(VOCAB_SIZE)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


@pytest.fixture(scope="session")
def commit_rows() -> PackedMaker:
    """Commits a packed artifact, as packing does: so many rows of random documents, or those of these documents."""

    def make(
        store: Store,
        wanted: int | list[list[list[int]]],
        *,
        source: str = "numbers",
        split: str = "train",
        seed: int = 0,
    ) -> Artifact:
        rows = random_rows(wanted, seed) if isinstance(wanted, int) else rows_of(wanted)
        counts = {"source": source, "split": split, "rows": len(rows), "row_len_tokens": ROW_LEN_TOKENS}
        key_parts = {"rows_of": source, "split": split, "seed": seed, "rows": wanted}
        with store.staging() as folder:
            staged = folder / "rows.parquet"
            pq.write_table(pa.Table.from_pylist(rows, schema=PACKED_SHARD), staged, row_group_size=3)
            return commit(store, Draft("packing", f"{source}-{split}", key_parts, {"rows": staged}, counts, 0.0))

    return make


def random_rows(num_rows: int, seed: int) -> list[dict[str, Any]]:
    """Rows of two documents and some padding."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(num_rows):
        first, second = int(generator.integers(1, 10)), int(generator.integers(1, 6))
        ids = generator.integers(3, VOCAB_SIZE, first + second).tolist()
        rows.append([ids[:first], ids[first:]])
    return rows_of(rows)


def rows_of(rows: list[list[list[int]]]) -> list[dict[str, Any]]:
    """Rows of these documents, each filled up with padding."""
    made: list[dict[str, Any]] = []
    number = 0
    for documents in rows:
        pieces = [
            {"source": "numbers", "tokens_key": "k", "document": document, "first_token": 0, "num_tokens": len(ids)}
            for document, ids in enumerate(documents, start=number)
        ]
        number += len(documents)
        num_tokens = sum(map(len, documents))
        padding = ROW_LEN_TOKENS - num_tokens
        ids = [token for document in documents for token in document] + [0] * padding
        lengths = [*map(len, documents), padding]
        made.append({"input_ids": ids, "seq_lengths": lengths, "num_tokens": num_tokens, "pieces": pieces})
    return made


@pytest.fixture
def training_command(
    tmp_path: Path, config_only_folder: Path, tokenizer_folder: Path, commit_rows: PackedMaker
) -> Callable[..., list[str]]:
    """The command of the smallest training, on seven rows in ``tmp_path/store``; told its launcher and what is changed."""

    def command(**changed: Any) -> list[str]:
        store = Store(str(tmp_path / "store"))
        rows = commit_rows(store, 7).folder
        return small_training(store, rows, model=config_only_folder, tokenizer=tokenizer_folder, **changed)

    return command
