"""How long training stands still for a checkpoint, and what an export takes: ``python -m tests.benchmarks.saving``.

Trains a few steps of a model of some 50 million parameters on two CPU processes and prints what the log says of each
save: the copy, for which training stands still, and the time until the seal, while it goes on. Then exports checkpoints
of growing models and prints the peak of their memory, over that of a tiny model.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import LlamaConfig

from cpt_core.artifacts import Artifact, Draft, commit
from cpt_core.config import TrainingConfig
from cpt_core.schemas import PACKED_SHARD
from cpt_core.storage import Store
from cpt_core.training import train_model
from tests.conftest import save_byte_tokenizer
from tests.cpt_core.training.checkpoints import seal_model
from tests.cpt_core.training.conftest import ROW_LEN_TOKENS, random_rows
from tests.cpt_core.training.test_export import MEASURED, TINY

STEPS, SAVE_STEPS = 24, 8
SEALED = re.compile(r"sealed: ([\d,]+) bytes, copied in ([\d.]+) s, sealed ([\d.]+) s later")


def main() -> None:
    """Train, and print the saves as a table."""
    with tempfile.TemporaryDirectory(prefix="cpt-saving-") as folder:
        log = _train(Path(folder))
    print("| state | training stands still (copy) | without a thread (copy, write, fsync, read back, seal) |")
    print("|---:|---:|---:|")
    for size, copied, later in SEALED.findall(log):
        print(
            f"| {int(size.replace(',', '')) / 1e6:,.0f} MB | {float(copied):.2f} s | {float(copied) + float(later):.2f} s |"
        )


def print_exports() -> None:
    """Export, and print the memory as a table."""
    print("| exported model | peak of anonymous memory |")
    print("|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="cpt-exporting-") as name:
        folder = Path(name)
        tokenizer = save_byte_tokenizer(folder / "tokenizer")
        seal_model(folder / "small", LlamaConfig(**TINY), tokenizer, precision="fp32")
        for vocab_size in (50_000, 100_000, 200_000):
            config = LlamaConfig(**TINY | {"vocab_size": vocab_size, "hidden_size": 512, "intermediate_size": 512})
            target, large = folder / f"out-{vocab_size}", folder / str(vocab_size)
            seal_model(large, config, tokenizer, precision="fp32", max_elements=1 << 21)
            command = [sys.executable, "-c", MEASURED, str(folder / "small"), str(large), str(target)]
            peak_bytes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            size_bytes = sum(path.stat().st_size for path in (target / "large").iterdir())
            print(f"| {size_bytes / 1e6:,.0f} MB | {peak_bytes / 1e6:,.0f} MB |")
            shutil.rmtree(large)
            shutil.rmtree(target)


def _train(folder: Path) -> str:
    save_byte_tokenizer(folder / "tokenizer")
    sizes = {"vocab_size": 32_000, "hidden_size": 640, "intermediate_size": 1280, "num_hidden_layers": 2}
    LlamaConfig(**sizes, num_attention_heads=8, num_key_value_heads=4).save_pretrained(folder / "model")
    store = Store(str(folder / "store"))
    config = TrainingConfig(
        model=str(folder / "model"),
        max_steps=STEPS,
        global_batch_rows=2,
        micro_batch_rows=1,
        zero_stage=3,
        precision="bf16",
        save_steps=SAVE_STEPS,
        device="cpu",
        launcher={"processes_per_node": 2},
    )
    trained = train_model([_packed(store)], config, store=store, name="saving", tokenizer_uri=str(folder / "tokenizer"))
    (log,) = Path(trained.counts["hf_model_uri"]).parent.glob("attempts/*/rank-00000.log")
    return log.read_text(encoding="utf-8")


def _packed(store: Store) -> Artifact:
    counts = {"source": "numbers", "split": "train", "rows": 16, "row_len_tokens": ROW_LEN_TOKENS}
    with store.staging() as folder:
        pq.write_table(pa.Table.from_pylist(random_rows(16, 0), schema=PACKED_SHARD), folder / "rows.parquet")
        return commit(
            store, Draft("packing", "numbers-train", {"rows": 16}, {"rows": folder / "rows.parquet"}, counts, 0.0)
        )


if __name__ == "__main__":
    main()
    print()
    print_exports()
