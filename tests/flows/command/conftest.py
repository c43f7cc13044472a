"""The command in a folder of its own, for what needs no Prefect server."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def command(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``cpt`` with these arguments."""
    cpt = str(Path(sys.executable).parent / "cpt")
    environment = os.environ | {"CPT_HOME": str(tmp_path / "home")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [cpt, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    return run
