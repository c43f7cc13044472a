"""Clocks decide nothing."""

import ast

import pytest

from cpt_core.storage import Store
from tests.conftest import REPOSITORY
from tests.faults.runs import contents
from tests.faults.shim import DURABLE, Fault

DAY = 86_400.0


@pytest.mark.parametrize(
    ("seconds", "step_seconds"),
    [(DAY, 0.0), (-DAY, 0.0), (3600.0, 0.0), (0.0, -1.0)],
    ids=["a day ahead", "a day behind", "summer time", "backwards"],
)
def test_a_wrong_clock_changes_nothing(runs, seconds, step_seconds):
    """The same keys, bytes and records; a run with another clock finds all, and collects what the killed left."""
    clock = {"clock_seconds": seconds, "clock_step_seconds": step_seconds}
    store = runs.new_store()
    assert runs.run(store, Fault(len(runs.steps) // 3, "kill_before", only=DURABLE), **clock).status == "killed"
    assert len(list((store / ".tmp").iterdir())) > 0
    with Store(str(store)).staging() as mine:
        (mine / "unfinished").write_bytes(b"x")
        assert runs.run(store, **clock).status == "done"
        assert [path.name for path in (store / ".tmp").iterdir()] == [mine.name]
        assert (mine / "unfinished").exists()
    assert contents(store) == runs.reference
    assert runs.problem_after(store) == ""


CORE = REPOSITORY / "cpt_core"
TELLS_A_FILES_TIMES = "inputs.py"
"""They are part of what a file is known by in mode `stat`; nothing is decided there."""


def test_the_store_never_asks_for_the_time():
    """Neither the wall clock nor a file's times are looked at where something is decided; durations are only recorded."""
    modules = {
        path.name: path for path in (*(CORE / "storage").glob("*.py"), CORE / "artifacts.py", CORE / "claims.py")
    }
    assert {"store.py", "durable.py", "owners.py", "artifacts.py", "claims.py"} < {*modules}
    del modules[TELLS_A_FILES_TIMES]
    for name, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not used & {"time", "time_ns", "now", "utcnow", "st_mtime", "st_mtime_ns", "st_ctime", "st_ctime_ns"}, (
            name
        )
