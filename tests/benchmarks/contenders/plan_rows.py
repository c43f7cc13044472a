"""This project's plan of rows, from lengths alone."""

import json
import sys
import time
from typing import Any

import numpy as np

from cpt_core.packing.plan import cut_documents, plan_best_fit
from tests.benchmarks.measure import tell


def main(arguments: dict[str, Any]) -> None:
    """Plan as often as asked."""
    documents, row_len_tokens = arguments["documents"], arguments["row_len_tokens"]
    generator = np.random.default_rng(0)
    if arguments["lengths"] == "log-normal":
        lengths = generator.lognormal(6.4, 1.1, documents).astype(np.int64) + 1
    else:
        lengths = generator.integers(53, 461, documents)
    seconds = []
    for _ in range(arguments["repeats"]):
        started = time.perf_counter()
        plan = plan_best_fit(cut_documents(lengths, row_len_tokens, "split"), row_len_tokens, order_seed=0)
        seconds.append(time.perf_counter() - started)
    tokens = int(lengths.sum())
    tell(
        [documents / 1e6 / each for each in seconds],
        rows=plan.num_rows,
        fewest_rows=-(-tokens // row_len_tokens),
        padding=f"{1 - tokens / (plan.num_rows * row_len_tokens):.4%}",
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
