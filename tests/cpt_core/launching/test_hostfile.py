"""Launcher kind hostfile without any host: the hostfile, the command and its variables."""

import sys
from pathlib import Path

import pytest

from cpt_core.config import LauncherConfig
from cpt_core.errors import ConfigError
from cpt_core.launching.hostfile import deepspeed_command, launcher_variables, read_hosts
from cpt_core.launching.job import Job
from cpt_core.launching.record import carry_variables


def _launcher(path: Path, **values: object) -> LauncherConfig:
    return LauncherConfig.model_validate(
        {"kind": "hostfile", "num_nodes": 2, "processes_per_node": 4, "hostfile": str(path), **values}
    )


def test_hosts_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Comments and empty lines are passed over, and only as many hosts taken as there are nodes."""
    path = tmp_path / "hosts"
    path.write_text("# rack 7\n\nb slots=4  # new\na slots=8\nc slots=1\n")
    assert read_hosts(_launcher(path)) == ["b", "a"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a slots=4\nb\n", "{path}, line 2: 'b', expected a line like `node1 slots=8`"),
        ("a slots=4\na slots=4\n", "{path}, line 2: a stands there twice"),
        ("a slots=4\n", "{path} has 1 hosts, expected at least num_nodes = 2"),
        ("a slots=4\nb slots=3\n", "{path}: b has slots=3, expected at least processes_per_node = 4"),
        (
            None,
            "training.launcher.hostfile {path}: No such file or directory; expected a file with lines like"
            " `node1 slots=8`",
        ),
    ],
)
def test_a_wrong_hostfile(tmp_path: Path, content: str | None, problem: str) -> None:
    """One line says what is wrong where; DeepSpeed would train on this machine alone when there is none."""
    path = tmp_path / "hosts"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as raised:
        read_hosts(_launcher(path))
    assert str(raised.value) == problem.format(path=path)


def test_the_command(tmp_path: Path) -> None:
    """DeepSpeed's launcher starts a guard for each slot, and is told nothing but the job's folder."""
    launcher = _launcher(tmp_path / "hosts", environment={"MASTER_ADDR": "10.0.0.1"}, master_port=1234)
    job = Job("m", tmp_path / "job.json", Path("/shared/a1"), launcher, "a1")
    assert deepspeed_command(job, ["b", "a"]) == [
        sys.executable,
        *("-m", "deepspeed.launcher.runner", "--hostfile", str(tmp_path / "hosts")),
        *("--num_nodes", "2", "--num_gpus", "4", "--master_addr", "10.0.0.1", "--master_port", "1234"),
        *("--launcher", "pdsh", "--force_multi", "--no_ssh_check"),
        *("--module", "--no_local_rank", "cpt_core.launching.guard", "/shared/a1"),
    ]


def test_what_deepspeed_would_write_into_command_lines_is_kept_from_it(tmp_path: Path) -> None:
    """Variables that it forwards, and its own file of variables; ssh is made to notice a lost connection."""
    base = {"PATH": "/bin", "MLFLOW_TRACKING_TOKEN": "secret", "PDSH_SSH_ARGS_APPEND": "-p 22"}
    assert launcher_variables(_launcher(tmp_path), base) == {
        "PATH": "/bin",
        "PDSH_SSH_ARGS_APPEND": "-p 22 -oBatchMode=yes -oConnectTimeout=10 -oServerAliveInterval=5 -oServerAliveCountMax=3",
        "DS_ENV_FILE": "/dev/null",
    }


def test_carried_variables_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Only what the patterns name is carried."""
    carry_variables(tmp_path, ["HF_*", "WANDB_API_KEY"], {"HF_TOKEN": "a", "WANDB_API_KEY": "b", "HOME": "/root"})
    path = tmp_path / "variables.json"
    assert path.read_text() == '{"HF_TOKEN": "a", "WANDB_API_KEY": "b"}'
    assert path.stat().st_mode & 0o777 == 0o600
