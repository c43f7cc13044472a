"""A training that is killed, twice here; ``make torture`` does it forty times."""

from tests.faults import trainings
from tests.faults.table import END, PAGE


def test_a_killed_training_goes_on_as_if_nothing_had_happened():
    """Once in the middle of a write, once everything at a step: the same losses, gradients and weights."""
    row = trainings.kills_of_a_training(2)
    assert (row.problems, row.tried) == ([], 2)


def test_the_page_has_its_rows():
    """As the command writes them, tried as often as it tries by itself."""
    block = PAGE.read_text(encoding="utf-8").split(trainings.BEGIN)[1].split(END)[0]
    rows = [line for line in block.splitlines() if "`python -m" in line]
    expected = [
        f"| {times} | {times} | `python -m tests.faults.trainings --only {row.__name__}` |"
        for row, times in trainings.ROWS.items()
    ]
    assert [row[-len(end) :] for row, end in zip(rows, expected, strict=True)] == expected
