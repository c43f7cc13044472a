"""This project's training stage: a job of one process."""

import json
import shutil
import sys
from typing import Any

from cpt_core.artifacts import read_record
from cpt_core.config import TrainingConfig
from cpt_core.storage import Store
from cpt_core.training import train_model
from tests.benchmarks.contenders.train_trainer import LEARNING_RATE, WARMUP_STEPS, tell_speed


def main(arguments: dict[str, Any]) -> None:
    """Train once; the metrics file has the seconds of every step."""
    steps = arguments["steps"]
    config = TrainingConfig(
        model=arguments["model"],
        max_steps=WARMUP_STEPS + steps * arguments["repeats"],
        learning_rate=LEARNING_RATE,
        warmup_steps=WARMUP_STEPS,
        zero_stage=1,
        output_dir=arguments["scratch"],
        **{name: arguments[name] for name in ("global_batch_rows", "micro_batch_rows", "precision", "device")},
        **{"gradient_checkpointing": False} | arguments["options"],
    )
    store = Store(arguments["store_uri"])
    packed = [artifact for folder in arguments["packed_folders"] if (artifact := read_record(store, folder))]
    lines: list[dict[str, Any]] = []
    trained = train_model(
        packed, config, store=store, name="bench", tokenizer_uri=arguments["tokenizer"], on_progress=lines.append
    )
    shutil.rmtree(trained.uri)  # or the next run would be a hit
    tell_speed(arguments, [line["seconds"] for line in lines], borders=True, last_loss=lines[-1]["loss"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
