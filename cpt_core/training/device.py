"""The device of a process, chosen before DeepSpeed is imported.

In: the configuration; what torch finds on this machine.
Out: a torch device.
Promise: a device that lacks what the configuration asks for is refused in one line.
Never: imports deepspeed, which looks at DS_ACCELERATOR once, when it is imported.
"""

import os

import torch

from cpt_core.config import TrainingConfig
from cpt_core.errors import ConfigError


def choose_device(config: TrainingConfig) -> torch.device:
    """The device of this process.

    Raises:
        ConfigError: when the machine does not have what the configuration asks for.
    """
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        os.environ["DS_ACCELERATOR"] = "cpu"
        return torch.device("cpu")
    return _cuda_device(config)


def _cuda_device(config: TrainingConfig) -> torch.device:
    local_rank = int(os.environ["LOCAL_RANK"])
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"training needs a CUDA device for each of {config.launcher.processes_per_node} processes, but torch finds"
            f" {torch.cuda.device_count()}; lower launcher.processes_per_node, or set device: cpu"
        )
    torch.cuda.set_device(local_rank)
    if config.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"training.precision is bf16, which {torch.cuda.get_device_name()} does not have; set precision: fp32"
        )
    return torch.device("cuda", local_rank)
