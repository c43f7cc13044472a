"""Launcher kind slurm without a Slurm: the batch script, literally."""

import subprocess
from pathlib import Path

import pytest

from cpt_core.config import LauncherConfig
from cpt_core.errors import ConfigError
from cpt_core.launching.job import Job
from cpt_core.launching.slurm import SlurmJob, render_script

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=cpt-0123abcd
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=4
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output='/shared/my run/launcher.log'
#SBATCH --export=ALL
#SBATCH --partition=gpu
#SBATCH --gres=gpu:4

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
run=${SLURM_RESTART_COUNT:-0}

srun --mpi=none --export=ALL --kill-on-bad-exit=1 --wait=60 /opt/python -u -m cpt_core.launching.guard '/shared/my run' &
wait $!
code=$?

# A rank without a record of its end has gone down with its node: the job is worth another try on other nodes.
ended=$(find '/shared/my run'/status-"$run" -name 'ended-*.json' 2>/dev/null | wc -l)
if [ "$code" -ne 0 ] && [ "$ended" -lt 32 ] && [ "$run" -lt 3 ]; then
  scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
exit "$code"
"""
LAUNCHER = LauncherConfig(
    kind="slurm",
    num_nodes=8,
    processes_per_node=4,
    max_restarts=3,
    sbatch_options=["--partition=gpu", "--gres=gpu:4"],
)


def test_the_batch_script(tmp_path: Path) -> None:
    """One task a rank, requeued when a node is lost; bash finds nothing wrong with it."""
    job = Job("m", Path("/shared/my run/job.json"), Path("/shared/my run"), LAUNCHER, "0123abcdef")
    script = render_script(job, python="/opt/python")
    assert script == SCRIPT
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_without_slurm(tmp_path: Path) -> None:
    """Where sbatch is missing, one line says so."""
    job = Job("m", tmp_path / "job.json", tmp_path, LAUNCHER, "0123abcdef")
    with pytest.raises(ConfigError) as raised:
        SlurmJob.start(job, {"PATH": str(tmp_path)})
    assert str(raised.value) == (
        "training.launcher.kind is slurm, but sbatch is not in PATH; run this where jobs are submitted"
    )
