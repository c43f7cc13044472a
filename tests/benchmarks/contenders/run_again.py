"""``cpt run`` when corpus and training are finished."""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.many_shards import add_training, seconds_of_command, seconds_of_stages, write_many_shards
from tests.benchmarks.measure import tell


def main(arguments: dict[str, Any]) -> None:
    """Fill a store without Prefect, train, then run the command as often as asked."""
    with tempfile.TemporaryDirectory(dir=arguments["scratch"]) as folder:
        config = write_many_shards(Path(folder), arguments["shards"])
        seconds_of_stages(config, Path(folder) / "store")
        add_training(config)
        home = Path(folder) / "home"
        seconds_of_command(config, home, "run")
        seconds = [seconds_of_command(config, home, "run")[0] for _ in range(arguments["repeats"])]
    tell([arguments["shards"] / each for each in seconds], wall_s=round(statistics.median(seconds), 2))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
