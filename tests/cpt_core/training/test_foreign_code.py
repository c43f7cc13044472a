"""A model that brings code along: the code does not run, in training, in evaluation or anywhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = {
    "training, from weights": """
from cpt_core.training.model import load_model
from cpt_core.config import TrainingConfig
load_model(Path(sys.argv[1]), TrainingConfig(model=sys.argv[1], zero_stage=0, precision="fp32"), {})
""",
    "training, from a configuration": """
from types import SimpleNamespace
from cpt_core.training.model import weights_folder
with weights_folder(Path(sys.argv[1]), Path(sys.argv[1]) / "scratch", 1, SimpleNamespace(is_first=True)):
    pass
""",
    "evaluation, from weights": """
from types import SimpleNamespace
from cpt_core.evaluation.scoring import _read_model
_read_model(Path(sys.argv[1]), SimpleNamespace(precision="fp32", attention="sdpa"), "cpu")
""",
}


def load(program: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """What one of the programs says of the model in a folder, to somebody who says yes to everything."""
    command = [sys.executable, "-c", f"import sys\nfrom pathlib import Path\n{PROGRAMS[program]}", str(folder)]
    return subprocess.run(command, input="y\n" * 9, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_code_of_a_model_is_refused_without_a_question(tmp_path: Path, program: str) -> None:
    """Not even an attentive terminal is asked: there is nobody at a cluster to answer."""
    trace = tmp_path / "it ran"
    code = f"open({str(trace)!r}, 'w')\nfrom transformers import PretrainedConfig\nclass C(PretrainedConfig): pass\n"
    (tmp_path / "foreign.py").write_text(code, encoding="utf-8")
    settings = {"model_type": "foreign", "auto_map": {"AutoConfig": "foreign.C", "AutoModelForCausalLM": "foreign.C"}}
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    if "weights" in program:
        (tmp_path / "model.safetensors").write_bytes(b"")
    result = load(program, tmp_path)
    assert result.returncode != 0
    assert "custom code" in result.stderr
    assert "y/N" not in result.stdout + result.stderr
    assert not trace.exists()
