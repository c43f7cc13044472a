"""How far a stage is, for whoever listens in this process, such as the screen of a command.

In: a stage at one moment.
Out: calls of the listeners.
Never: knows Prefect.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A stage at one moment.

    Attributes:
        stage: such as ``tokenization``.
        done: units finished.
        total: units in all.
        unit: such as ``shards``.
        detail: what has been done so far, in words.
        is_finished: the stage has ended; ``detail`` is its summary.
        is_remark: ``detail`` is something to know about the stage, told once.
    """

    stage: str
    done: int
    total: int
    unit: str
    detail: str
    is_finished: bool = False
    is_remark: bool = False


Listener = Callable[[Progress], None]
_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Call ``listener`` with every progress of this process from now on."""
    _listeners.append(listener)


def tell(progress: Progress) -> None:
    """A stage has moved."""
    for listener in _listeners:
        listener(progress)
