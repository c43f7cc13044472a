"""The house: who may import whom, and how large a room may grow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

ROOMS = ("cpt_core", "tasks", "flows")
MODULES = sorted(path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def name_of(path: Path) -> str:
    """Path within the repository."""
    return str(path.relative_to(REPOSITORY))


def test_imports_go_one_way():
    """The contracts of pyproject.toml hold: flows, tasks, core; stages apart; Prefect, torch and fsspec behind doors."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_and_functions_stay_small(path):
    """A file of more than 400 lines or a function of more than 60 has to be divided."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is(path):
    """The room card stands at the top."""
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_stages_are_called_by_one_noun_everywhere():
    """A stage has the same name in the core and among the tasks."""
    tasks = {path.stem for path in (REPOSITORY / "tasks").glob("*.py")}
    core = {path.stem for path in (REPOSITORY / "cpt_core").iterdir()}
    stages = {"discovery", "tokenization", "indexing", "packing", "training", "evaluation"}
    assert stages <= tasks
    assert stages <= core


def test_nothing_is_called_utils():
    """A drawer is not a room."""
    assert [name_of(path) for path in MODULES if path.stem in {"utils", "common", "helpers", "misc"}] == []
