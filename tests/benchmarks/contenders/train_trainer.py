"""A plain Hugging Face Trainer on the same rows, model and device."""

import json
import statistics
import sys
import time
from typing import Any

import pyarrow.parquet as pq
import torch
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from cpt_core.packed_rows import IGNORED_LABEL
from tests.benchmarks.measure import tell

LEARNING_RATE, WARMUP_STEPS = 1e-3, 2


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Rows of parquet files; the whole row is a label, but for its padding."""

    def __init__(self, files: list[str], borders: bool) -> None:
        self._tables = [row for file in files for row in pq.read_table(file).to_pylist()]
        self._borders = borders

    def __len__(self) -> int:
        return len(self._tables)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        row = self._tables[number]
        ids = torch.tensor(row["input_ids"])
        labels = ids.clone()
        labels[row["num_tokens"] :] = IGNORED_LABEL
        item = {"input_ids": ids, "labels": labels}
        if self._borders:
            item["position_ids"] = torch.cat([torch.arange(length) for length in row["seq_lengths"]])
        return item


class Stopwatch(TrainerCallback):
    """Seconds of every optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = time.perf_counter()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """The first step begins."""
        self._last = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """One step is done, and the next begins."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def main(arguments: dict[str, Any]) -> None:
    """Train once, with a stopwatch."""
    on_gpu, micro = arguments["device"] == "cuda", arguments["micro_batch_rows"]
    settings = TrainingArguments(
        output_dir=arguments["scratch"],
        max_steps=WARMUP_STEPS + arguments["steps"] * arguments["repeats"],
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=arguments["global_batch_rows"] // micro,
        learning_rate=LEARNING_RATE,
        warmup_steps=WARMUP_STEPS,
        lr_scheduler_type="cosine",
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
    )
    model = AutoModelForCausalLM.from_pretrained(arguments["model"], dtype=torch.float32)
    model.config.use_cache = False  # with a cache, borders would silently be ignored
    watch = Stopwatch()
    rows = Rows(arguments["row_files"], arguments["borders"])
    trainer = Trainer(model=model, args=settings, train_dataset=rows, callbacks=[watch])
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    tell_speed(arguments, watch.seconds, borders=arguments["borders"], last_loss=losses[-1])


def tell_speed(arguments: dict[str, Any], seconds: list[float], *, borders: bool, last_loss: float) -> None:
    """Tokens a second of each repeat, and MFU at their median."""
    timed, steps = seconds[WARMUP_STEPS:], arguments["steps"]
    rows = steps * arguments["global_batch_rows"]
    rates = [rows / sum(timed[first : first + steps]) for first in range(0, len(timed), steps)]
    mfu = statistics.median(rates) * arguments["flops_per_row"] / (arguments["peak_tflops"] * 1e12)
    tell(
        [rate * arguments["tokens_per_row"] for rate in rates],
        mfu=f"{mfu:.1%}",
        borders="yes" if borders else "no",
        peak_tflops=round(arguments["peak_tflops"], 3),
        last_loss=round(float(last_loss), 4),
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
