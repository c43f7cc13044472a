"""What the ranks of these tests do: they meet by gloo, step by step, without a model.

``python -m tests.cluster.work JOB_FILE`` is started by the launchers; DeepSpeed is not needed to lose a rank.
"""

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed

from cpt_core.launching.heartbeat import note_meeting
from cpt_core.launching.job import follow
from cpt_core.launching.success import write_done


def main() -> None:
    """Sum ones over all ranks until the job has its number of steps; a rank obeys the files named after it."""
    told = json.loads(Path(sys.argv[1]).read_bytes())
    folder, attempt, steps = Path(told["folder"]), told["attempt"], int(told["steps"])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=120))
    network, secret = (os.environ.get(name) for name in ("GLOO_SOCKET_IFNAME", "HF_TOKEN"))
    print(f"rank {rank} of {world_size} on {os.uname().nodename}, network {network}, secret {secret}", flush=True)
    follow(folder, Path(told["first_folder"]))
    for step in range(1, steps + 1):
        _obey(folder, rank)
        note_meeting()
        total = torch.ones(1)
        torch.distributed.all_reduce(total)
        assert total.item() == world_size
        if rank == 0:
            with (folder / "metrics.jsonl").open("a") as stream:
                stream.write(json.dumps({"attempt": attempt, "step": step}) + "\n")
        print(f"step {step}", flush=True)
        time.sleep(told["step_seconds"])
    if rank == 0:
        write_done(folder, attempt, {"world_size": world_size, "steps": steps})
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)


def _obey(folder: Path, rank: int) -> None:
    if (folder / f"hang-{rank}").exists():
        print("hanging as told", flush=True)
        time.sleep(3600)


if __name__ == "__main__":
    main()
