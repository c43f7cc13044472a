"""What the other nodes of kind env say before the ranks have met; from then on all look at the first node's job.

In: the records of every node's newest attempt, in a folder that all nodes share.
Out: their ranks' signs of life; the first request to stop.
Promise: what was over before it was first seen, or does not change, says nothing: it may be of an earlier run.
Never: compares times of two machines.
"""

from collections.abc import Iterator
from pathlib import Path

from cpt_core.launching.record import attempt_records
from cpt_core.launching.status import SignOfLife, Status, StopRequest, read_json


class Neighbours:
    """The newest attempts of the other nodes.

    Args:
        records_folder: where the nodes note their newest attempts; None where one process follows all ranks.
        own_folder: of the own attempt.
    """

    def __init__(self, records_folder: Path | None, own_folder: Path) -> None:
        self._records_folder = records_folder
        self._own_folder = own_folder
        self._over = {status.folder for status in self._statuses() if status.stop_request() is not None}
        self._first_written_ns: dict[tuple[Path, int], int] = {}

    def stop_request(self) -> StopRequest | None:
        """Why the ranks of another node have to end, if they have to since they are watched."""
        requests = (status.stop_request() for status in self._statuses() if status.folder not in self._over)
        return next((request for request in requests if request is not None), None)

    def alive(self) -> dict[int, SignOfLife]:
        """The last sign of life of every rank that has given one since it was first seen, by rank."""
        return {
            rank: sign
            for status in self._statuses()
            for rank, sign in status.alive().items()
            if sign.written_ns != self._first_written_ns.setdefault((status.folder, rank), sign.written_ns)
        }

    def _statuses(self) -> Iterator[Status]:
        for path in attempt_records(self._records_folder) if self._records_folder else []:
            record = read_json(path)
            if record is not None and Path(record["folder"]) != self._own_folder:
                yield Status.newest(Path(record["folder"]))
