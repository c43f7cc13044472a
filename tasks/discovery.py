"""Task: find, cut and identify the input files, and read which of their lines are repaired."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from cpt_core.config import PipelineConfig
from cpt_core.discovery import DiscoveryProgress
from cpt_core.manifest import Manifest
from cpt_core.storage import Store
from tasks.progress import StageProgress
from tasks.repeating import REPEATED
from tasks.run_page import show_table
from tasks.shards import find_shards
from tasks.stage_lines import counted, describe_repeated
from tasks.tables import discovered_sources
from tasks.throughput import Reading

STAGE = "discovery"


@task(
    name="discover",
    task_run_name="discover {config.name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    **REPEATED,
)
def discover(config: PipelineConfig) -> Manifest:
    """Sources -> manifest. Always runs: only looking can tell whether something changed."""
    store = Store(config.store_uri, config.verify)
    store.require_first_writer_wins()
    store.collect_garbage()
    moved = _Moved()
    manifest = find_shards(config, store, moved)
    described = (
        f"{counted(manifest.files, 'file')}, {counted(len(manifest.shards), 'shard')}, {manifest.size_bytes:,} bytes; "
        + (f"{manifest.bytes_read:,} bytes read to identify them" if manifest.bytes_read else "already identified")
    )
    moved.finish(described)
    if repeated := manifest.repeated_files():
        get_run_logger().warning("%s", describe_repeated(repeated))
    show_table("discovery-table", discovered_sources(manifest), f"Discovery of {config.name}: {described}")
    return manifest


class _Moved:
    """The progress of the stage, which begins when the files are listed: only then is known how many there are."""

    def __init__(self) -> None:
        self._progress: StageProgress | None = None
        self._reading = Reading()

    def __call__(self, seen: DiscoveryProgress) -> None:
        """So far is discovery; of its end tells ``finish``."""
        if self._progress is None:
            self._progress = StageProgress(STAGE, seen.all_files, "files")
        if seen.files < seen.all_files:
            fraction = seen.size_bytes / seen.all_bytes if seen.all_bytes else 1.0
            self._progress.reach(seen.files, self._reading.line(seen), fraction)

    def finish(self, summary: str) -> None:
        """The stage has ended."""
        if self._progress is not None:
            self._progress.finish(summary)
