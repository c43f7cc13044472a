"""Jobs of two small processes."""

import json
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from cpt_core.config import LauncherConfig
from cpt_core.launching.job import Job

PREAMBLE = """
import json, os, signal, sys, time
from pathlib import Path
from cpt_core.errors import ConfigError
from cpt_core.launching.heartbeat import note_meeting
from cpt_core.launching.success import write_done
job = json.loads(Path(sys.argv[1]).read_text())
rank, folder = int(os.environ["RANK"]), Path(job["folder"])
"""

JobMaker = Callable[..., Job]


@pytest.fixture
def make_job(tmp_path: Path) -> JobMaker:
    """Makes a job of two processes that run the given lines."""

    def make(lines: str, launcher: LauncherConfig | None = None, *, outlives_launcher: bool = False) -> Job:
        (tmp_path / "work_of_a_rank.py").write_text(PREAMBLE + textwrap.dedent(lines))
        job_file = tmp_path / "job.json"
        job_file.write_text(json.dumps({"folder": str(tmp_path), "attempt": "a1"}))
        search_path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        chosen = launcher or LauncherConfig(processes_per_node=2)
        values = chosen.model_dump() | {"environment": {"PYTHONPATH": search_path}}
        return Job("work_of_a_rank", job_file, tmp_path, LauncherConfig(**values), "a1", outlives_launcher)

    return make
