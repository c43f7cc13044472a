"""Task: find, cut and identify the input files, and read which of their lines are repaired."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from cpt_core.config import PipelineConfig
from cpt_core.manifest import Manifest
from cpt_core.storage import Store
from tasks.repeating import REPEATED
from tasks.run_page import show_table
from tasks.shards import find_shards
from tasks.stage_lines import counted, describe_repeated
from tasks.tables import discovered_sources


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
    manifest = find_shards(config, store)
    described = (
        f"{counted(manifest.files, 'file')}, {counted(len(manifest.shards), 'shard')}, {manifest.size_bytes:,} bytes; "
        f"{manifest.bytes_read:,} bytes read to identify them"
    )
    get_run_logger().info("%s", described)
    if repeated := manifest.repeated_files():
        get_run_logger().warning("%s", describe_repeated(repeated))
    show_table("discovery-table", discovered_sources(manifest), f"Discovery of {config.name}: {described}")
    return manifest
