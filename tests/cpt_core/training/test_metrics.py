"""The lines of a run, and the same for TensorBoard."""

import json
import resource

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cpt_core.config import TrainingConfig
from cpt_core.training.metrics import MetricsWriter


def write(path, steps: list[int], *, steps_done: int, tensorboard: bool = False) -> None:
    """One attempt that measures these steps."""
    config = TrainingConfig(model="m", tensorboard=tensorboard)
    with MetricsWriter(path, attempt=f"from-{steps_done}", steps_done=steps_done, config=config) as writer:
        for step in steps:
            writer.write({"step": step, "loss": step / 2, "mfu": None})


def test_a_resumed_run_replaces_the_lines_of_steps_that_it_trains_again(tmp_path):
    """Killed after step 3 with a checkpoint at step 2, and with half a line: every step stands once."""
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2, 3], steps_done=0)
    path.write_bytes(path.read_bytes() + b'{"step": 4, "lo')
    write(path, [3, 4], steps_done=2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["attempt"]) for line in lines] == [
        (1, "from-0"),
        (2, "from-0"),
        (3, "from-2"),
        (4, "from-2"),
    ]


@pytest.mark.parametrize("damaged", [bytes(40), b'{"step": 2, "lo', b"2", b"[]", b"{}", b'{"step": null}', b"\xff"])
def test_a_damaged_line_is_dropped(tmp_path, damaged: bytes):
    """A power cut may leave zeros, or the end of a line under the next one; the run goes on with all other lines."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damaged + b'\n{"step": 3}\n')
    write(path, [4], steps_done=3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3, 4]


def test_a_line_that_finds_no_room_comes_with_the_next_one(tmp_path):
    """A full disk delays the metrics, and does not stop the training; a save that needs them fails."""
    path = tmp_path / "metrics.jsonl"
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricsWriter(path, attempt="a", steps_done=0, config=TrainingConfig(model="m")) as writer:
        writer.write({"step": 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, unlimited[1]))
        try:
            writer.write({"step": 2})
            with pytest.raises(OSError, match="File too large"):
                writer.make_durable()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        assert path.read_bytes().count(b"\n") == 1
        writer.write({"step": 3})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_tensorboard_gets_the_same_numbers_when_it_is_wanted(tmp_path):
    """Scalars by name and step; what was not measured is left out."""
    write(tmp_path / "metrics.jsonl", [1, 2], steps_done=0, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss", "save_seconds"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 1.0)]
