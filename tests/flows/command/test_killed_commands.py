"""``cpt prepare``, killed; ``make torture`` does it more often, and with a Prefect server of its own each time."""

from tests.faults.commands import GATES, Command
from tests.faults.corpus import write_scene
from tests.faults.object_stores import Scene, killed_on_s3
from tests.faults.promises import killed_commands


def test_a_command_that_is_killed_at_every_gate_ends_with_the_same_bytes(prefect_api, tmp_path):
    """In tokenization, indexing and packing, the command alone and with its workers in turn, each time on one store."""
    environment = {"PREFECT_API_URL": prefect_api, "CPT_HOME": str(tmp_path / "home")}
    command = Command(write_scene(tmp_path), tmp_path, environment)
    row = killed_commands(command, tmp_path, len(GATES))
    assert (row.problems, row.tried) == ([], 6)


def test_a_command_that_is_killed_at_a_write_to_s3_ends_with_the_same_artifacts(prefect_api, s3, tmp_path):
    """Once; those of a local run."""
    environment = {"PREFECT_API_URL": prefect_api, "CPT_HOME": str(tmp_path / "home")}
    row = killed_on_s3(Scene(s3, tmp_path, environment), 1)
    assert (row.problems, row.tried) == ([], 1)
