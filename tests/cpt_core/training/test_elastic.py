"""A training that goes on with other numbers of ranks at other ZeRO stages, in fp32 and in bf16."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cpt_core.storage import Store
from tests.cpt_core.training.interrupted import STEPS, Training, gated

RECIPE = {"rows": 60, "global_batch_rows": 24, "learning_rate": 1e-3}
"""The global batch is one of 1, 2, 3 and 8 ranks."""
ROUNDING = {"fp32": (1e-5, 1e-6), "bf16": (1e-3, 5e-5)}
"""How far losses may be apart, and the fp32 weights of a parameter on average. At a norm's weights, which are about 1, bf16
has steps of 8e-3 or 4e-3, so that fp32 weights that were lost on the way would show.
"""
LEGS = [
    ("fp32", [(2, 3), (3, 2), (8, 1)]),
    ("fp32", [(3, 0), (8, 3), (3, 1)]),
    ("bf16", [(2, 3), (1, 1), (2, 2)]),
    ("bf16", [(2, 0), (1, 3), (2, 1)]),
    ("bf16", [(2, 1), (3, 3), (2, 0)]),
]
"""Each a number of ranks and a ZeRO stage."""


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, config_only_folder: Path, tokenizer_folder: Path, commit_rows: Any
) -> Callable[[str], Training]:
    """By precision, two ranks with ZeRO-3 that nothing happened to."""

    def make(precision: str) -> Training:
        store = Store(str(tmp_path_factory.mktemp(precision)))
        training = Training(store, config_only_folder, tokenizer_folder, commit_rows)
        training.run(precision=precision, **RECIPE)
        return training

    return cache(make)


@pytest.mark.matrix
@pytest.mark.parametrize(("precision", "legs"), LEGS, ids=lambda value: str(value).replace(" ", ""))
def test_other_numbers_of_ranks_take_the_same_steps(
    undisturbed: Callable[[str], Training],
    tmp_path: Path,
    config_only_folder: Path,
    tokenizer_folder: Path,
    commit_rows: Any,
    precision: str,
    legs: list[tuple[int, int]],
) -> None:
    """Broken off at steps 5 and 9: losses and fp32 weights are those of the undisturbed run but for rounding."""
    reference = undisturbed(precision)
    training = Training(Store(str(tmp_path / "store")), config_only_folder, tokenizer_folder, commit_rows)
    saved_by = []
    for step, (processes, zero_stage) in zip((5, 9, STEPS), legs, strict=True):
        (tmp_path / "steps").write_text(str(step), encoding="utf-8")
        launcher = {"processes_per_node": processes, "environment": gated(tmp_path)}
        options = {"precision": precision, "zero_stage": zero_stage, "launcher": launcher, **RECIPE}
        if step < STEPS:
            training.run_until(step, **options)
        else:
            training.run(**options)
        manifest = json.loads((training.checkpoints()[-1] / "manifest.json").read_bytes())
        saved_by.append((manifest["world_size"], manifest["zero_stage"]))
    assert saved_by == legs
    of_losses, of_weights = ROUNDING[precision]
    assert training.losses() == [(step, pytest.approx(loss, abs=of_losses)) for step, loss in reference.losses()]
    expected = _weights(reference)
    apart = {name: float((values - expected[name]).abs().mean()) for name, values in _weights(training).items()}
    assert {name: mean for name, mean in apart.items() if mean > of_weights} == {}
    assert len(apart) == len(expected) == 20


def _weights(training: Training) -> dict[str, torch.Tensor]:
    """The fp32 weights of the newest checkpoint, whole, flattened."""
    slices: dict[str, dict[int, torch.Tensor]] = {}
    for file in training.checkpoints()[-1].glob("rank-*"):
        for name, values in load_file(file).items():
            kind, _, rest = name.partition("/")
            parameter, _, start = rest.rpartition("@")
            if kind == "master":
                slices.setdefault(parameter, {})[int(start)] = values
    return {name: torch.cat([parts[start] for start in sorted(parts)]) for name, parts in slices.items()}
