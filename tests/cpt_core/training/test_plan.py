"""What a run will do: steps, order, learning rates, keys, DeepSpeed's settings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_core.config import TrainingConfig
from cpt_core.errors import ConfigError
from cpt_core.storage import Store
from cpt_core.training import StepPlan, plan_steps, training_key_parts
from cpt_core.training.engine import deepspeed_config
from cpt_core.training.order import FILL, rows_of_rank, rows_of_step
from cpt_core.training.schedule import learning_rate


def _config(**values: Any) -> TrainingConfig:
    return TrainingConfig(**{"model": "m", "global_batch_rows": 4, "micro_batch_rows": 1, **values})


def test_importing_the_room_imports_no_torch() -> None:
    """Flows name training cheaply: neither training nor evaluation pulls torch in."""
    import subprocess
    import sys

    program = "import cpt_core.training, cpt_core.evaluation, sys; print(*{'torch', 'deepspeed', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize(
    ("num_rows", "values", "expected"),
    [
        (10, {}, StepPlan(10, 10, 3)),
        (10, {"num_train_epochs": 2}, StepPlan(10, 20, 5)),
        (10, {"max_steps": 7}, StepPlan(10, 28, 7)),
        (1, {}, StepPlan(1, 1, 1)),
    ],
)
def test_steps(num_rows: int, values: dict[str, Any], expected: StepPlan) -> None:
    """The last step of all epochs is filled up; max_steps is taken as it is."""
    assert plan_steps(num_rows, _config(**values)) == expected


def test_no_rows() -> None:
    """Training without rows is refused."""
    with pytest.raises(ConfigError, match="training has no packed rows"):
        plan_steps(0, _config())


@settings(deadline=None)
@given(
    num_rows=st.integers(1, 50),
    epochs=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    world_size=st.sampled_from([1, 2, 3, 4, 8]),
    seed=st.integers(0, 2**32),
)
def test_every_row_once_an_epoch(num_rows: int, epochs: int, accumulation: int, world_size: int, seed: int) -> None:
    """Each row comes once an epoch at any number of ranks, in one order; the last step alone is filled."""
    batch = accumulation * world_size * 2
    total = num_rows * epochs
    order = []
    for step in range(-(-total // batch)):
        rows = rows_of_step(step, num_rows=num_rows, rows_total=total, global_batch_rows=batch, seed=seed)
        shares = [
            rows_of_rank(rows, rank=rank, world_size=world_size, micro_batch_rows=2) for rank in range(world_size)
        ]
        assert sorted(np.concatenate(shares).ravel()) == sorted(rows)
        order += rows.tolist()
    assert order[total:] == [FILL] * (len(order) - total)
    for epoch in range(epochs):
        assert sorted(order[epoch * num_rows : (epoch + 1) * num_rows]) == list(range(num_rows))


def test_order_is_pinned() -> None:
    """The order of seed 3407 never changes: epochs differ, and a step across their border takes from both."""
    steps = [rows_of_step(step, num_rows=6, rows_total=12, global_batch_rows=4, seed=3407) for step in range(3)]
    assert np.stack(steps).tolist() == [[2, 5, 0, 1], [4, 3, 0, 5], [2, 4, 1, 3]]


def test_slices_of_ranks() -> None:
    """Micro-batch m of rank r is slice number m * world_size + r of the step."""
    rows = np.arange(8)
    assert rows_of_rank(rows, rank=0, world_size=2, micro_batch_rows=2).tolist() == [[0, 1], [4, 5]]
    assert rows_of_rank(rows, rank=1, world_size=2, micro_batch_rows=2).tolist() == [[2, 3], [6, 7]]


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.775, 0.55, 0.325]),
        ("cosine", [0.5, 1.0, 1.0, 0.868198, 0.55, 0.231802]),
        ("warmup_stable_decay", [0.5, 1.0, 1.0, 1.0, 1.0, 0.55]),
    ],
)
def test_learning_rates(scheduler: str, expected: list[float]) -> None:
    """Six steps with two of warm-up, from a peak of 1 towards a minimum of 0.1."""
    config = _config(
        learning_rate=1.0, min_learning_rate=0.1, warmup_steps=2, lr_scheduler=scheduler, decay_fraction=0.3
    )
    assert [round(learning_rate(step, 6, config), 6) for step in range(6)] == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # re-warmed from the rate at which the base model's pretraining ended
        ({"warmup_start_learning_rate": 0.2}, [0.6, 1.0, 1.0, 0.868198, 0.55, 0.231802]),
        # a cycle an epoch: the second warm-up starts from the minimum
        (
            {"lr_cycles": 2, "warmup_start_learning_rate": 0.5, "warmup_steps": 1},
            [1.0, 1.0, 0.55, 1.0, 1.0, 0.55],
        ),
        # warm-up, stable and decay in each cycle
        (
            {"lr_cycles": 2, "lr_scheduler": "warmup_stable_decay", "warmup_steps": 1, "decay_fraction": 0.6},
            [1.0, 1.0, 0.55, 1.0, 1.0, 0.55],
        ),
    ],
)
def test_learning_rates_of_continued_pretraining(values: dict[str, Any], expected: list[float]) -> None:
    """Six steps from a peak of 1 towards a minimum of 0.1: re-warming, and re-decay in cycles."""
    config = _config(**{"learning_rate": 1.0, "min_learning_rate": 0.1, "warmup_steps": 2, **values})
    assert [round(learning_rate(step, 6, config), 6) for step in range(6)] == expected


@settings(deadline=None)
@given(
    steps_total=st.integers(1, 400),
    cycles=st.integers(1, 7),
    warmup_steps=st.integers(0, 60),
    scheduler=st.sampled_from(["cosine", "linear", "warmup_stable_decay"]),
)
def test_every_cycle_warms_up_to_the_peak_and_decays(
    steps_total: int, cycles: int, warmup_steps: int, scheduler: str
) -> None:
    """Rates stay between start, minimum and peak; each cycle has as many steps as any other, give or take one."""
    config = _config(
        learning_rate=1.0,
        min_learning_rate=0.25,
        warmup_start_learning_rate=0.5,
        warmup_steps=warmup_steps,
        lr_scheduler=scheduler,
        lr_cycles=cycles,
    )
    rates = [learning_rate(step, steps_total, config) for step in range(steps_total)]
    assert all(0.25 <= rate <= 1.0 for rate in rates)
    if steps_total // cycles > warmup_steps > 0:
        starts = [
            step for step in range(steps_total) if step * cycles // steps_total != (step - 1) * cycles // steps_total
        ]
        sizes = [end - start for start, end in zip(starts, [*starts[1:], steps_total], strict=True)]
        assert len(starts) == cycles
        assert max(sizes) - min(sizes) <= 1
        assert [rates[start + warmup_steps - 1] for start in starts] == [1.0] * cycles
        assert rates[0] == 0.5 + 0.5 / warmup_steps
        assert all(rates[start] == 0.25 + 0.75 / warmup_steps for start in starts[1:])


def test_a_cycle_without_room_for_its_warm_up() -> None:
    """Told before anything starts, with the steps that there are."""
    with pytest.raises(
        ConfigError, match="lr_cycles is 2, which leaves 3 of 7 steps for each, expected more than warmup"
    ):
        plan_steps(10, _config(max_steps=7, lr_cycles=2, warmup_steps=3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"warmup_start_learning_rate": 1.0}, "warmup_start_learning_rate is 1.0, expected at most learning_rate"),
        ({"lr_cycles": 2, "lr_scheduler": "constant"}, "lr_scheduler constant has no decay to repeat"),
        (
            {"selective_checkpointing": True, "gradient_checkpointing": False},
            "selective_checkpointing is true, expected gradient_checkpointing: true",
        ),
    ],
)
def test_contradictions(values: dict[str, Any], message: str) -> None:
    """Options that mean nothing together are refused."""
    with pytest.raises(ValueError, match=message):
        _config(**values)


def test_key_holds_what_changes_the_result(tmp_path: Path, model_folder: Path, commit_rows: Any) -> None:
    """How the result is computed is in no key; what it is computed from is."""
    packed = [commit_rows(Store(str(tmp_path)), 3)]
    base = training_key_parts(packed, _config(), model_folder)
    how = {
        "micro_batch_rows": 2,
        "zero_stage": 1,
        "save_steps": 7,
        "attention": "varlen",
        "cross_entropy": "chunked",
        "torch_compile": True,
        "selective_checkpointing": True,
        "overlap_communication": True,
        "profile_steps": 3,
        "output_dir": "/o",
        "deepspeed": {"wall_clock_breakdown": True, "zero_optimization": {"log_trace_cache_warnings": True}},
    }
    assert training_key_parts(packed, _config(**how), model_folder) == base
    assert training_key_parts(packed, _config(launcher={"processes_per_node": 2}), model_folder) == base
    for changed in (
        {"seed": 1},
        {"learning_rate": 1.0},
        {"max_steps": 3},
        {"precision": "fp32"},
        {"num_train_epochs": 2},
        {"lr_cycles": 2},
        {"warmup_start_learning_rate": 1e-6},
        {"decay_norms_and_biases": True},
        {"document_borders": False},
        {"deepspeed": {"zero_optimization": {"zero_quantized_weights": True}}},
    ):
        assert training_key_parts(packed, _config(**changed), model_folder) != base
    steps = training_key_parts(packed, _config(max_steps=3), model_folder)
    assert training_key_parts(packed, _config(max_steps=3, num_train_epochs=5), model_folder) == steps


def test_deepspeed_settings() -> None:
    """DeepSpeed is told numbers, and neither an optimizer nor a scheduler."""
    config = _config(micro_batch_rows=2, global_batch_rows=8, launcher={"processes_per_node": 2})
    assert deepspeed_config(config) == {
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 3},
        "steps_per_print": 2147483648,
        "data_types": {"grad_accum_dtype": "fp32"},
    }


def test_deepspeed_settings_of_a_user() -> None:
    """They are added to the recipe's."""
    users = {"zero_optimization": {"reduce_bucket_size": 1000}, "wall_clock_breakdown": True}
    settings = deepspeed_config(_config(zero_stage=2, overlap_communication=False, deepspeed=users))
    assert settings["zero_optimization"] == {"reduce_bucket_size": 1000, "stage": 2, "overlap_comm": False}
    assert settings["wall_clock_breakdown"] is True
    assert settings["train_batch_size"] == 4
