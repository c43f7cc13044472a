"""A look at something every few seconds, beside the work.

In: a function to call; how long to wait between its calls.
Out: a ``with`` block, in which it is called from a thread of its own.
Promise: the thread has the context of the one that started it, so that a Prefect logger finds its server there; it has
ended when the block has.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context


@contextmanager
def repeatedly(look: Callable[[], object], seconds: float, name: str) -> Iterator[None]:
    """Call ``look`` every so many seconds while the block runs, and once more at its end.

    Args:
        look: what it raises ends the thread and nothing else.
        seconds: between two calls.
        name: of the thread.
    """
    ended = threading.Event()

    def work() -> None:
        is_over = False
        while not is_over:
            is_over = ended.wait(seconds)
            look()

    thread = threading.Thread(target=copy_context().run, args=(work,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
