"""``cpt prepare`` on a finished corpus."""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.many_shards import seconds_of_command, seconds_of_stages, write_many_shards
from tests.benchmarks.measure import tell


def main(arguments: dict[str, Any]) -> None:
    """Fill a store without Prefect, then run the command as often as asked."""
    with tempfile.TemporaryDirectory(dir=arguments["scratch"]) as folder:
        config = write_many_shards(Path(folder), arguments["shards"])
        seconds_of_stages(config, Path(folder) / "store")
        seconds_of_command(config, Path(folder) / "home")  # remembers the tokenizer, as the first run would have
        seconds = [seconds_of_command(config, Path(folder) / "home")[0] for _ in range(arguments["repeats"])]
    tell([arguments["shards"] / each for each in seconds], wall_s=round(statistics.median(seconds), 2))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
