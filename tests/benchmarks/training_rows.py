"""What the training contenders share: packed rows of the demo's corpus, a model, and what the device can do at most."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from cpt_core.artifacts import Artifact
from cpt_core.config import PipelineConfig
from cpt_core.demo_corpus import write_demo_corpus
from cpt_core.indexing import build_index
from cpt_core.packed_rows import PackedRows
from cpt_core.packing import pack_group
from cpt_core.storage import Store
from cpt_core.tokenization import load_tokenizer, tokenize_shard
from cpt_core.training.flops import ModelFlops
from tasks.shards import find_shards, pack_groups, tokenized_shards
from tests.benchmarks.materials import FOLDER
from tests.conftest import REPOSITORY

BASE = REPOSITORY / "deployments" / "models" / "demo-base"
PEAK_SECONDS = 5.0
_LARGE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "vocab_size": 128256,
}
"""A model of about a billion parameters, for a GPU; the tokenizer's ids are the first of its vocabulary."""


@dataclass(frozen=True)
class TrainingMaterial:
    """Rows on disk and a model, both alike for every contender.

    Attributes:
        packed_folders: of the packed artifacts in the store.
        row_files: their parquet files.
        store_uri: where they are.
        tokenizer: a folder.
        model: a transformers folder with weights.
        row_len_tokens: of every row.
        tokens_per_row: mean, without padding.
        flops_per_row: mean of the model FLOPs by the documents' own lengths.
        peak_tflops: measured: a large matrix product in the precision of training.
    """

    packed_folders: list[str]
    row_files: list[str]
    store_uri: str
    tokenizer: str
    model: str
    row_len_tokens: int
    tokens_per_row: float
    flops_per_row: float
    peak_tflops: float


def training_material(*, on_gpu: bool) -> TrainingMaterial:
    """Prepare it, or find it from an earlier run; the peak is measured anew."""
    row_len_tokens = 4096 if on_gpu else 512
    store, packed = _packed(row_len_tokens)
    model = _large_model() if on_gpu else BASE
    rows = PackedRows(store, packed)
    read = [rows[number] for number in range(len(rows))]
    tokens = sum(row.num_tokens for row in read) / len(read)
    squares = sum(int((row.document_lengths.astype("int64") ** 2).sum()) for row in read) / len(read)
    flops = ModelFlops.of_model(AutoModelForCausalLM.from_pretrained(model))
    files = [str(store.local_path(artifact.path("rows"))) for artifact in packed]
    assert sum(pq.read_metadata(file).num_rows for file in files) == len(rows)
    return TrainingMaterial(
        packed_folders=[artifact.folder for artifact in packed],
        row_files=files,
        store_uri=store.root_uri,
        tokenizer=str(BASE),
        model=str(model),
        row_len_tokens=row_len_tokens,
        tokens_per_row=tokens,
        flops_per_row=flops.of_batch(tokens, squares),
        peak_tflops=measured_peak_tflops(on_gpu=on_gpu),
    )


def measured_peak_tflops(*, on_gpu: bool) -> float:
    """TFLOP/s of a square matrix product, the best of many: what this device reaches, not what its maker says."""
    size, kind = (8192, torch.bfloat16) if on_gpu else (1024, torch.float32)
    left = torch.randn(size, size, dtype=kind, device="cuda" if on_gpu else "cpu")
    best, until = float("inf"), time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < until:
        started = time.perf_counter()
        left @ left
        if on_gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e12


def _packed(row_len_tokens: int) -> tuple[Store, list[Artifact]]:
    config = PipelineConfig.model_validate(
        {
            "name": "bench",
            "store_uri": str(FOLDER / "training-store"),
            "discovery": {"sources": [{"name": "docs", "uris": [str(_paragraphs())]}]},
            "tokenization": {"tokenizer": str(BASE)},
            "packing": {"row_len_tokens": row_len_tokens},
        }
    )
    store, tokenizer = Store(config.store_uri), load_tokenizer(config.tokenization)
    manifest = find_shards(config, store)
    tokens = [tokenize_shard(shard, config.tokenization, tokenizer=tokenizer, store=store) for shard in manifest.shards]
    index = build_index(tokenized_shards(manifest, tokens), config, store=store)
    groups = pack_groups(manifest, tokens, index, config, store)
    return store, [
        pack_group(group, config.packing, index=index, pad_id=tokenizer.pad_id, store=store) for group in groups
    ]


def _paragraphs() -> Path:
    """Each paragraph of the demo's documentation as a document: several to a row, so that borders matter."""
    documents = FOLDER / "demo-paragraphs.jsonl"
    if not documents.exists():
        write_demo_corpus(FOLDER / "demo-corpus")
        lines = [
            json.dumps({"text": paragraph}) + "\n"
            for file in sorted((FOLDER / "demo-corpus").glob("docs-train-*.jsonl"))
            for line in file.read_text(encoding="utf-8").splitlines()
            for paragraph in json.loads(line)["text"].split("\n\n")
            if paragraph.strip()
        ]
        documents.write_text("".join(lines), encoding="utf-8")
    return documents


def _large_model() -> Path:
    folder = FOLDER / "training-model"
    config = LlamaConfig(**_LARGE, bos_token_id=0, eos_token_id=1)
    if not (folder / "done.json").exists():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        (folder / "done.json").write_text(json.dumps(_LARGE))
    return folder
