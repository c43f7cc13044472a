"""Launcher kind ``slurm``: one batch job, one task a rank.

In: a job, options for sbatch.
Out: a handle that knows the job by its number, from any machine of the cluster, also after a restart of its own.
Promise: the script is a pure function of the job; Slurm requeues it when a node is lost; ``stop`` cancels it and waits
until Slurm has no process of it any more, lost nodes aside.
Never: needs Slurm's accounting database, or DeepSpeed's own slurm launcher (which sets no ranks).
"""

import logging
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from cpt_core.errors import ConfigError, JobFailedError
from cpt_core.launching.guard import GRACE_SECONDS
from cpt_core.launching.job import Job, JobState, last_lines

logger = logging.getLogger(__name__)

SCRIPT_NAME = "job.sbatch"
SECONDS_BETWEEN_QUESTIONS = 2.0
_SECONDS_TO_REQUEUE = 3600.0
_SECONDS_TO_CANCEL = 120.0
_SECONDS_TO_COMPLETE = GRACE_SECONDS + 3.0
"""Enough for all processes that can end; Slurm itself goes on waiting for those of a lost node for minutes."""
_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=cpt-{attempt}
#SBATCH --nodes={num_nodes}
#SBATCH --ntasks-per-node={processes_per_node}
#SBATCH {requeue}
#SBATCH --open-mode=append
#SBATCH --output={log}
#SBATCH --export=ALL
{options}
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT={port}
export MASTER_ADDR MASTER_PORT
run=${{SLURM_RESTART_COUNT:-0}}

srun --mpi=none --export=ALL --kill-on-bad-exit=1 --wait=60 {python} -u -m cpt_core.launching.guard {folder} &
wait $!
code=$?

# A rank without a record of its end has gone down with its node: the job is worth another try on other nodes.
ended=$(find {folder}/status-"$run" -name 'ended-*.json' 2>/dev/null | wc -l)
if [ "$code" -ne 0 ] && [ "$ended" -lt {world_size} ] && [ "$run" -lt {max_restarts} ]; then
  scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
exit "$code"
"""


class SlurmJob:
    """Handle of a batch job."""

    def __init__(self, job: Job, number: str) -> None:
        self._job = job
        self._number = number
        self._state = "PENDING"
        self._next_question = 0.0
        self.seconds_to_stop = _SECONDS_TO_REQUEUE if job.launcher.max_restarts else GRACE_SECONDS + 2.0
        """Slurm requeues a job when it has given up its lost node, which takes its SlurmdTimeout."""

    @classmethod
    def start(cls, job: Job, base: Mapping[str, str]) -> "SlurmJob":
        """Submit the job."""
        if shutil.which("sbatch", path=base.get("PATH", "")) is None:
            raise ConfigError(
                "training.launcher.kind is slurm, but sbatch is not in PATH; run this where jobs are submitted"
            )
        script = job.folder / SCRIPT_NAME
        script.write_text(render_script(job, python=sys.executable), encoding="utf-8")
        variables = dict(base) | job.launcher.environment
        answer = _ask("sbatch", "--parsable", str(script), variables=variables)
        if answer.returncode:
            raise JobFailedError(f"sbatch refused {script}: {answer.stderr.strip() or answer.stdout.strip()}")
        return cls(job, answer.stdout.strip().split(";")[0])

    @classmethod
    def attach(cls, job: Job, identity: dict[str, Any]) -> "SlurmJob":
        """The job that was submitted before."""
        return cls(job, identity["slurm_job_id"])

    def identity(self) -> dict[str, Any]:
        """Slurm's number of the job."""
        return {"slurm_job_id": self._number}

    def poll(self) -> JobState:
        """``exited`` once Slurm says that the job has ended, or knows it no longer."""
        if self._state not in _ENDED and time.monotonic() >= self._next_question:
            self._state = self._ask_state()
            self._next_question = time.monotonic() + SECONDS_BETWEEN_QUESTIONS
        return "exited" if self._state in _ENDED else "running"

    def stop(self) -> None:
        """Cancel the job and wait for its end, as long as Slurm's own patience with processes may last."""
        deadline = time.monotonic() + _SECONDS_TO_CANCEL
        is_completing = False
        while self.poll() == "running" and time.monotonic() < deadline:
            _ask("scancel", self._number)
            if self._state == "COMPLETING" and not is_completing:
                is_completing, deadline = True, time.monotonic() + _SECONDS_TO_COMPLETE
            time.sleep(0.5)
            self._next_question = 0.0
        if self.poll() == "running":
            logger.warning("job %s is cancelled, and Slurm still waits for the end of its processes", self._number)

    def trouble(self) -> str:
        """Slurm's word for the end, and the end of the script's log."""
        return (
            f"Slurm ended job {self._number}: {self._state}. Last lines of launcher.log:\n"
            f"{last_lines(self._job.launcher_log)}"
        )

    def _ask_state(self) -> str:
        """Slurm's word; what cannot be asked now is asked again, for the controller may be restarting."""
        answer = _ask("squeue", "--noheader", "--states=all", f"--jobs={self._number}", "--format=%T")
        if answer.returncode == 0 and answer.stdout.strip():
            return answer.stdout.split()[0]
        is_unknown = answer.returncode == 0 or "Invalid job id" in answer.stderr
        return "COMPLETED" if is_unknown else self._state


def render_script(job: Job, *, python: str) -> str:
    """The batch script of a job."""
    launcher = job.launcher
    return _SCRIPT.format(
        attempt=job.attempt[:8],
        num_nodes=launcher.num_nodes,
        processes_per_node=launcher.processes_per_node,
        requeue="--requeue" if launcher.max_restarts else "--no-requeue",
        log=shlex.quote(str(job.launcher_log)),
        options="".join(f"#SBATCH {option}\n" for option in launcher.sbatch_options),
        port=launcher.master_port or "$((20000 + SLURM_JOB_ID % 20000))",
        python=shlex.quote(python),
        folder=shlex.quote(str(job.folder)),
        world_size=launcher.world_size,
        max_restarts=launcher.max_restarts,
    )


def _ask(
    program: str, *arguments: str, variables: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [program, *arguments], env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
