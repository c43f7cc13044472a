"""What a few steps spend their time on.

In: how many steps; a folder.
Out: ``trace-rank-00000.json.gz``, one a rank, for chrome://tracing or Perfetto.
Promise: without profiled steps nothing is measured and nothing slows down.
Never: records the first two steps, in which caches and kernels are still warming.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

SKIPPED_STEPS, WARMUP_STEPS = 1, 1


@contextmanager
def profiled(steps: int, folder: Path, rank: int) -> Iterator[Callable[[], None]]:
    """Record ``steps`` steps; gives what must be called at the end of each."""
    if not steps:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    target = folder / f"trace-rank-{rank:05}.json.gz"
    with profile(
        activities=activities,
        schedule=schedule(wait=SKIPPED_STEPS, warmup=WARMUP_STEPS, active=steps, repeat=1),
        on_trace_ready=lambda done: done.export_chrome_trace(str(target)),
    ) as profiler:
        yield profiler.step
