"""What a job's first process prints comes into the log of the run, a little at a time."""

from pathlib import Path

from tasks import process_log
from tasks.process_log import GrowingLogs, process_log_told


def write(attempts: Path, attempt: str, text: str) -> None:
    """The process of an attempt prints."""
    (attempts / attempt).mkdir(parents=True, exist_ok=True)
    with (attempts / attempt / "rank-00000.log").open("a") as stream:
        stream.write(text)


def test_new_lines_are_told_once_and_only_whole(tmp_path):
    """Not what an earlier attempt printed; an unfinished line waits for its end."""
    write(tmp_path, "first", "long ago\n")
    logs = GrowingLogs(tmp_path)
    assert logs.new_lines() == []
    write(tmp_path, "second", "loading\n\nstep 1\nste")
    assert logs.new_lines() == ["loading", "step 1"]
    write(tmp_path, "second", "p 2\n")
    assert logs.new_lines() == ["step 2"]


def test_a_chatty_process_is_cut_short(tmp_path):
    """Its file has the rest; nothing in a line drives a terminal or tells a secret."""
    logs = GrowingLogs(tmp_path)
    write(tmp_path, "a", "\x1b[31mred\n" + "".join(f"line {number}\n" for number in range(99)))
    told = logs.new_lines()
    assert told[:2] == ["\\x1b[31mred", "line 0"]
    assert told[-1] == f"… and 80 lines more in {tmp_path}"
    assert len(told) == process_log.LINES_AT_ONCE + 1


def test_the_last_lines_are_told_before_the_job_is_over(tmp_path):
    """Also those that came after the last look."""
    told: list[str] = []
    with process_log_told(tmp_path, told.append):
        write(tmp_path, "a", "the end\n")
    assert told == ["the end"]
