"""Task: find, cut and identify the input files."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from cpt_core.config import PipelineConfig
from cpt_core.discovery import discover_sources
from cpt_core.manifest import Manifest
from cpt_core.storage import Store


@task(name="discover", task_run_name="discover {config.name}", cache_policy=NO_CACHE, persist_result=False)
def discover(config: PipelineConfig) -> Manifest:
    """Sources -> manifest. Always runs: only looking can tell whether something changed."""
    store = Store(config.store_uri)
    store.collect_garbage()
    manifest = discover_sources(
        config.discovery,
        config.tokenization.shard_size_bytes,
        store=store,
        workers=config.orchestration.workers,
    )
    get_run_logger().info(
        "%d files, %d shards, %s bytes; %s bytes read to identify them",
        manifest.files,
        len(manifest.shards),
        f"{manifest.size_bytes:,}",
        f"{manifest.bytes_read:,}",
    )
    return manifest
