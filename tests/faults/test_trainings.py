"""A training that is killed, twice here; ``make torture`` does it forty times."""

from tests.faults import trainings
from tests.faults.table import END, PAGE


def test_a_killed_training_goes_on_as_if_nothing_had_happened():
    """Once in the middle of a write, once everything at a step: the same losses, gradients and weights."""
    row = trainings.kills_of_a_training(2)
    assert (row.problems, row.tried) == ([], 2)


def test_the_page_has_its_row():
    """As the command writes it."""
    block = PAGE.read_text(encoding="utf-8").split(trainings.BEGIN)[1].split(END)[0]
    assert "`python -m tests.faults.trainings`" in block
