"""Which settings of DeepSpeed a user may add, and what to use in place of the others.

In: the mapping of ``training.deepspeed``, as in DeepSpeed's own JSON file.
Out: what is wrong with it, setting by setting.
Promise: a setting that DeepSpeed would ignore, or that would override the recipe behind its back, or whose state no
checkpoint could hold, is named.
Never: imports deepspeed, or checks values: DeepSpeed does that when the job starts.
"""

import difflib
from typing import Any

ZERO = "zero_optimization"

OWNED = {
    "train_batch_size": "training.global_batch_rows",
    "train_micro_batch_size_per_gpu": "training.micro_batch_rows",
    "gradient_accumulation_steps": "training.global_batch_rows and micro_batch_rows",
    "managed_gradient_accumulation": "training.global_batch_rows and micro_batch_rows",
    "gradient_clipping": "training.max_grad_norm",
    "optimizer": "training.learning_rate, adam_betas, adam_eps and weight_decay",
    "scheduler": "training.lr_scheduler, warmup_steps and min_learning_rate",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "amp": "training.precision",
    "torch_autocast": "training.precision",
    "data_types": "training.precision",
    "activation_checkpointing": "training.gradient_checkpointing and selective_checkpointing",
    "compile": "training.torch_compile",
    "checkpoint": "training.save_steps and keep_last",
    "tensorboard": "training.tensorboard",
    "csv_monitor": "the run's metrics.jsonl",
    "steps_per_print": "the run's metrics.jsonl",
    "elasticity": "training.launcher",
    "data_efficiency": "training.seed, which decides the order of rows",
    "curriculum_learning": "training.seed, which decides the order of rows",
    f"{ZERO}.stage": "training.zero_stage",
    f"{ZERO}.overlap_comm": "training.overlap_communication",
}
"""Setting to what takes its place."""

ALLOWED = frozenset(
    {
        "aio",
        "comms_logger",
        "communication_data_type",
        "disable_python_gc",
        "dump_state",
        "flops_profiler",
        "gradient_predivide_factor",
        "log_level",
        "memory_breakdown",
        "prescale_gradients",
        "wall_clock_breakdown",
        "zero_force_ds_cpu_optimizer",
    }
)
"""Beside ``zero_optimization``."""

ALLOWED_ZERO = frozenset(
    {
        "allgather_bucket_size",
        "allgather_partitions",
        "contiguous_gradients",
        "enable_sanity_checks",
        "ignore_unused_parameters",
        "leaf_module",
        "log_trace_cache_warnings",
        "memory_efficient_linear",
        "offload_optimizer",
        "offload_param",
        "override_module_apply",
        "parameter_alignment",
        "reduce_bucket_size",
        "reduce_scatter",
        "round_robin_gradients",
        "stage3_allgather_sequential",
        "stage3_max_live_parameters",
        "stage3_max_reuse_distance",
        "stage3_model_persistence_threshold",
        "stage3_module_granularity_threshold",
        "stage3_param_persistence_threshold",
        "stage3_prefetch_bucket_size",
        "stage3_use_all_reduce_for_fetch_params",
        "sub_group_size",
        "use_multi_rank_bucket_allreduce",
        "zero_hpz_partition_size",
        "zero_quantized_gradients",
        "zero_quantized_nontrainable_weights",
        "zero_quantized_weights",
    }
)
"""Inside ``zero_optimization``."""

ALLOWED_INSIDE = {
    "aio": frozenset(
        {"block_size", "intra_op_parallelism", "overlap_events", "queue_depth", "single_submit", "use_gds"}
    ),
    "comms_logger": frozenset({"debug", "enabled", "prof_all", "prof_ops", "verbose"}),
    "flops_profiler": frozenset(
        {"detailed", "enabled", "module_depth", "output_file", "profile_step", "recompute_fwd_factor", "top_modules"}
    ),
    f"{ZERO}.leaf_module": frozenset({"classes", "name_suffixes", "names"}),
    f"{ZERO}.offload_optimizer": frozenset({"device", "pin_memory"}),
    f"{ZERO}.offload_param": frozenset(
        {"buffer_count", "buffer_size", "device", "max_in_cpu", "nvme_path", "pin_memory"}
    ),
}
"""Inside those that are mappings. Of ``offload_optimizer``, only what leaves the whole state in one optimizer and in
memory, where checkpoints find it: no NVMe and its buffers, no ``ratio`` and no ``super_offload``."""

OBSERVING = frozenset(
    {
        "comms_logger",
        "dump_state",
        "flops_profiler",
        "log_level",
        "memory_breakdown",
        "wall_clock_breakdown",
        f"{ZERO}.log_trace_cache_warnings",
    }
)
"""What only looks or prints: with or without it the trained model is the same."""


def problems_in(settings: dict[str, Any]) -> list[str]:
    """What is wrong, one sentence a setting; empty when nothing is."""
    zero = settings.get(ZERO, {})
    if not isinstance(zero, dict):
        return [f"{ZERO} is {zero!r}, expected a mapping"]
    problems = [_problem(key, ALLOWED | {ZERO}, "") for key in settings]
    problems += [_problem(key, ALLOWED_ZERO, f"{ZERO}.") for key in zero]
    for path, allowed in ALLOWED_INSIDE.items():
        problems += _problems_inside(path, allowed, zero if path.startswith(f"{ZERO}.") else settings)
    problems += [f"{path} is auto, expected a value" for path in _autos(settings, "")]
    return [problem for problem in problems if problem]


def deciding(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without those that only observe."""
    left = {key: value for key, value in settings.items() if key not in OBSERVING}
    if ZERO in left:
        left[ZERO] = {key: value for key, value in left[ZERO].items() if f"{ZERO}.{key}" not in OBSERVING}
    return {key: value for key, value in left.items() if (key, value) != (ZERO, {})}


def merged(own: dict[str, Any], users: dict[str, Any]) -> dict[str, Any]:
    """The recipe's settings and the user's, which never name the same thing."""
    return {**users, **own, ZERO: {**users.get(ZERO, {}), **own[ZERO]}}


def _problems_inside(path: str, allowed: frozenset[str], settings: dict[str, Any]) -> list[str]:
    name = path.rpartition(".")[2]
    values = settings.get(name, {})
    if not isinstance(values, dict):
        return [f"{path} is {values!r}, expected a mapping"]
    problems = [_problem(key, allowed, f"{path}.") for key in values]
    if name == "offload_optimizer" and values.get("device") == "nvme":
        problems.append(f"{path}.device is nvme, where no checkpoint can be made of the state; use cpu")
    return problems


def _problem(key: str, allowed: frozenset[str], prefix: str) -> str:
    path = prefix + key
    if path in OWNED:
        return f"{path} belongs to the recipe; use {OWNED[path]}"
    if key in allowed:
        return ""
    near = difflib.get_close_matches(key, [*allowed, *(name.removeprefix(prefix) for name in OWNED)], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{path} is not a setting that is passed on to DeepSpeed{hint}"


def _autos(values: dict[str, Any], prefix: str) -> list[str]:
    """Paths of settings that wait for another program to fill them in."""
    found = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += _autos(value, f"{prefix}{key}.")
        elif value == "auto":
            found.append(prefix + key)
    return found
