"""Training: packed rows -> optimizer steps, beside a plain Hugging Face Trainer on the same rows and device."""

from dataclasses import asdict
from typing import Any

import torch

from tests.benchmarks.measure import Contender, Subject
from tests.benchmarks.training_rows import training_material

STEPS, QUICK_STEPS = 10, 3
"""Of each repeat."""
BASELINE = "Hugging Face Trainer"

_NOTES = """
One process. Corpus: paragraphs of the documentation of Python's standard library, packed; a small model on a CPU, one
of about a billion parameters on a GPU. Tokens are those of rows without padding; start, first steps and saving are
not timed. MFU = model FLOPs / seconds / the device's rate for a large matrix product, measured in the same run; model
FLOPs = 6 x parameters x tokens + 12 x layers x attention size x sum of squared document lengths, for every contender
alike. Borders: whether documents in a row are kept from seeing each other.
"""


def subject(quick: bool) -> Subject:
    """This project with and without its switches for speed, and the Trainer with and without borders."""
    on_gpu = torch.cuda.is_available()
    common = {**asdict(training_material(on_gpu=on_gpu)), **_recipe(on_gpu), "steps": QUICK_STEPS if quick else STEPS}
    fast: dict[str, Any] = {"attention": "varlen", "cross_entropy": "chunked"}
    contenders = [
        Contender("cpt", "train_ours", common | {"options": {}}),
        Contender("cpt, varlen attention, chunked loss", "train_ours", common | {"options": fast}),
        Contender(BASELINE, "train_trainer", common | {"borders": False}),
        Contender(f"{BASELINE}, position_ids", "train_trainer", common | {"borders": True}),
    ]
    if on_gpu:
        selective = fast | {"gradient_checkpointing": True, "selective_checkpointing": True}
        compiled = fast | {"torch_compile": True}
        contenders += [
            Contender("cpt, the same, selective checkpointing", "train_ours", common | {"options": selective}),
            Contender("cpt, the same, torch.compile", "train_ours", common | {"options": compiled}),
        ]
    return Subject(
        name="training",
        title="Training on one device",
        unit="tokens/s",
        contenders=contenders,
        baseline=BASELINE,
        facts={
            "mfu": "MFU",
            "borders": "borders",
            "peak_tflops": "peak measured, TFLOP/s",
            "last_loss": "loss of the last step",
        },
        notes=_NOTES.strip(),
    )


def _recipe(on_gpu: bool) -> dict[str, Any]:
    rows = (
        {"global_batch_rows": 16, "micro_batch_rows": 2} if on_gpu else {"global_batch_rows": 8, "micro_batch_rows": 4}
    )
    return {**rows, "precision": "bf16" if on_gpu else "fp32", "device": "cuda" if on_gpu else "cpu"}
