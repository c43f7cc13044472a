"""What a user may tell DeepSpeed, and what the recipe keeps to itself."""

import json

import pytest

from cpt_core.config import TrainingConfig
from cpt_core.deepspeed_settings import (
    ALLOWED,
    ALLOWED_INSIDE,
    ALLOWED_ZERO,
    OBSERVING,
    OWNED,
    deciding,
    problems_in,
)

A_FILE_FOR_ANOTHER_TRAINER = """{
  "bf16": {"enabled": "auto"},
  "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
  "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_min_lr": 0}},
  "zero_optimization": {"stage": 3, "overlap_comm": true, "stage3_max_live_parameter": 1e9},
  "gradient_clipping": 1.0,
  "train_micro_batch_size_per_gpu": 4,
  "wall_clock_breakdown": false
}"""


def test_a_file_written_for_another_trainer_is_refused_setting_by_setting() -> None:
    """Each setting that would be overridden or ignored is named, with what to use in its place."""
    assert problems_in(json.loads(A_FILE_FOR_ANOTHER_TRAINER)) == [
        "bf16 belongs to the recipe; use training.precision",
        "optimizer belongs to the recipe; use training.learning_rate, adam_betas, adam_eps and weight_decay",
        "scheduler belongs to the recipe; use training.lr_scheduler, warmup_steps and min_learning_rate",
        "gradient_clipping belongs to the recipe; use training.max_grad_norm",
        "train_micro_batch_size_per_gpu belongs to the recipe; use training.micro_batch_rows",
        "zero_optimization.stage belongs to the recipe; use training.zero_stage",
        "zero_optimization.overlap_comm belongs to the recipe; use training.overlap_communication",
        "zero_optimization.stage3_max_live_parameter is not a setting that is passed on to DeepSpeed;"
        " did you mean stage3_max_live_parameters?",
        "bf16.enabled is auto, expected a value",
        "optimizer.params.lr is auto, expected a value",
    ]


MISSPELT = """{
  "aio": {"blocksize": 1048576},
  "flops_profiler": true,
  "zero_optimization": {
    "offload_optimizer": {"devise": "cpu", "ratio": 0.5},
    "offload_param": {"device": "nvme", "nvme_paths": "/local"},
    "leaf_module": {"class": ["Expert"]}
  }
}"""


def test_what_is_misspelt_inside_a_setting_is_refused_by_name() -> None:
    """DeepSpeed would ignore it, or end every rank with a traceback."""
    passed_on = "is not a setting that is passed on to DeepSpeed"
    assert problems_in(json.loads(MISSPELT)) == [
        f"aio.blocksize {passed_on}; did you mean block_size?",
        "flops_profiler is True, expected a mapping",
        f"zero_optimization.leaf_module.class {passed_on}; did you mean classes?",
        f"zero_optimization.offload_optimizer.devise {passed_on}; did you mean device?",
        f"zero_optimization.offload_optimizer.ratio {passed_on}",
        f"zero_optimization.offload_param.nvme_paths {passed_on}; did you mean nvme_path?",
    ]


def test_a_state_that_no_checkpoint_could_hold_is_refused() -> None:
    """On NVMe, DeepSpeed leaves empty tensors in memory."""
    with pytest.raises(
        ValueError, match=r"offload_optimizer\.device is nvme, where no checkpoint can be made of the st"
    ):
        TrainingConfig(model="m", deepspeed={"zero_optimization": {"offload_optimizer": {"device": "nvme"}}})


def test_what_only_observes_is_left_out_of_a_trainings_key() -> None:
    """To look more closely at a training starts no other one."""
    users = {"wall_clock_breakdown": True, "zero_optimization": {"log_trace_cache_warnings": True}}
    assert deciding(users) == {}
    more = {"flops_profiler": {"enabled": True}, "zero_optimization": {"reduce_bucket_size": 5}, "aio": {}}
    assert deciding(more) == {"zero_optimization": {"reduce_bucket_size": 5}, "aio": {}}


def test_the_configuration_refuses_it() -> None:
    """When it is read, before anything is computed."""
    with pytest.raises(ValueError, match=r"scheduler belongs to the recipe; use training\.lr_scheduler"):
        TrainingConfig(model="m", deepspeed={"scheduler": {"type": "WarmupDecayLR"}})
    with pytest.raises(ValueError, match="zero_optimization is True, expected a mapping"):
        TrainingConfig(model="m", deepspeed={"zero_optimization": True})


def test_what_is_allowed_is_passed_on() -> None:
    """Offloading, buckets and the like are the user's."""
    users = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}, "zero_force_ds_cpu_optimizer": False}
    assert TrainingConfig(model="m", deepspeed=users).deepspeed == users


def test_the_tables_fit_the_installed_deepspeed_and_the_configuration() -> None:
    """Every setting of ZeRO that is passed on exists, and so does every field that takes another's place."""
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.profiling.config import DeepSpeedFlopsProfilerConfig
    from deepspeed.runtime.swap_tensor.aio_config import AIO_DEFAULT_DICT
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.leaf_module_config import DeepSpeedZeroLeafModuleConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    known = {field.alias or name for name, field in DeepSpeedZeroConfig.model_fields.items()}
    assert set() == ALLOWED_ZERO - known
    assert set() == ALLOWED & OWNED.keys()
    inside = {
        "aio": AIO_DEFAULT_DICT,
        "comms_logger": CommsLoggerConfig.model_fields,
        "flops_profiler": vars(DeepSpeedFlopsProfilerConfig({})),
        "zero_optimization.leaf_module": DeepSpeedZeroLeafModuleConfig.model_fields,
        "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig.model_fields,
        "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig.model_fields,
    }
    assert inside.keys() == ALLOWED_INSIDE.keys()
    assert [name for path, allowed in ALLOWED_INSIDE.items() for name in allowed - inside[path].keys()] == []
    assert {name for name in OBSERVING if "." not in name} <= ALLOWED
    named = {use.split(",")[0].split(" ")[0] for use in OWNED.values() if use.startswith("training.")}
    assert {name.removeprefix("training.") for name in named} <= TrainingConfig.model_fields.keys()
