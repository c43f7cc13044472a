"""DeepSpeed's compiled extension: is it there, and could it be built?

In: the launcher's configuration, the variables of this process.
Out: an answer, or one ``ConfigError`` that names the missing Debian package.
Promise: a missing compiler is said before any process starts, and a lock left by a killed build is removed.
Never: compiles, or imports torch.

On a CPU, DeepSpeed 0.19 builds ``deepspeed_shm_comm`` when it first starts (about a minute) and fails without a
compiler. With CUDA it does not need it.
"""

import shutil
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil

from cpt_core.config import LauncherConfig
from cpt_core.errors import ConfigError
from cpt_core.launching.environment import Environment, extensions_folder

EXTENSION = "deepspeed_shm_comm"
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def extension_is_needed(device: Literal["auto", "cpu", "cuda"]) -> bool:
    """Whether training on this machine will need the extension."""
    return device == "cpu" or (device == "auto" and not NVIDIA_DRIVER.exists())


def extension_is_built(launcher: LauncherConfig, base: Environment) -> bool:
    """Whether an earlier run left the extension in the cache; if not, the first start takes a minute longer."""
    return (extensions_folder(launcher, base) / EXTENSION / f"{EXTENSION}.so").exists()


def require_compiler(launcher: LauncherConfig, base: Environment) -> None:
    """Make sure that the extension exists or can be built, if this machine is the one that trains.

    Raises:
        ConfigError: when the compiler or Python's headers are missing.
    """
    if launcher.kind not in ("local", "env"):
        return
    _remove_dead_lock(extensions_folder(launcher, base) / EXTENSION / "lock")
    if extension_is_built(launcher, base):
        return
    compiler = launcher.environment.get("CXX") or base.get("CXX") or "c++"
    if shutil.which(compiler, path=base.get("PATH", "")) is None:
        raise ConfigError(
            f"no C++ compiler: {compiler} is not in PATH, and DeepSpeed must compile {EXTENSION} once on this "
            "machine; install the Debian package g++, or set CXX"
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise ConfigError(
            f"no Python headers: {header} is missing, and DeepSpeed must compile {EXTENSION} once on this machine; "
            "install the Debian package python3-dev"
        )


def _remove_dead_lock(lock: Path) -> None:
    """A build that was killed leaves its lock, and torch would wait for it for ever; a live build holds it open."""
    if lock.exists() and not any(_holds_open(process, lock) for process in psutil.process_iter()):
        lock.unlink(missing_ok=True)


def _holds_open(process: psutil.Process, path: Path) -> bool:
    with suppress(psutil.Error):
        return any(Path(opened.path) == path for opened in process.open_files())
    return False
