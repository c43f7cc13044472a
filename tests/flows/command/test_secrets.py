"""Secrets in the environment of a run that trains; ``make torture`` looks for them during other commands, too."""

from tests.faults.secrets import look_for_secrets
from tests.flows.homes import new_home
from tests.planted_secrets import SECRETS


def test_no_secret_of_the_environment_is_found_after_a_training(home_with_schema, tmp_path):
    """Neither in its output nor in any file: Prefect's database, records, logs of ranks, checkpoints, the model."""
    new_home(home_with_schema, tmp_path / "home")
    row = look_for_secrets(tmp_path, len(SECRETS))
    assert (row.problems, row.tried) == ([], len(SECRETS))
    assert list(tmp_path.glob("store/training_runs/*/model/model.safetensors"))
    assert list(tmp_path.glob("store/training_runs/*/attempts/*/rank-00001.log"))
