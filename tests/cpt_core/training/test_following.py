"""What those who watch a training are told."""

from pathlib import Path
from typing import Any

from cpt_core.launching.waiting import ProgressFile
from cpt_core.training.following import StepsOnce


def test_each_step_is_told_once_after_a_requeue(tmp_path: Path) -> None:
    """A job of the same attempt begins a new file with the lines it kept, and makes a step again: no step doubles."""
    path, told = tmp_path / "metrics.jsonl", []
    progress, follow = ProgressFile(path, "a"), StepsOnce(told.append)

    def read() -> list[dict[str, Any]]:
        told.clear()
        for line in progress.new_lines():
            follow(line)
        return list(told)

    kept = '{"attempt": "a", "step": 1}\n{"attempt": "a", "step": 2, "notes": ["disk is full"]}\n'
    path.write_text(kept + '{"attempt": "a", "step": 3}\n')
    assert [line["step"] for line in read()] == [1, 2, 3]
    requeued = tmp_path / "requeued"
    requeued.write_text(kept + '{"attempt": "a", "step": 3, "notes": ["step-0000003 is damaged"]}\n')
    requeued.replace(path)
    assert read() == []
    with path.open("a") as stream:
        stream.write('{"attempt": "a", "step": 4}\n{"attempt": "a", "step": 5}\n')
    assert read() == [
        {"attempt": "a", "step": 4, "notes": ["step-0000003 is damaged"]},
        {"attempt": "a", "step": 5},
    ]
