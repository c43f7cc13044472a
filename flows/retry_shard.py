"""One shard alone, from the Prefect UI: the flow behind ``cpt-shard/retry-shard``."""

from typing import Any

from prefect import flow
from prefect.logging import get_run_logger

from cpt_core.config import PipelineConfig
from flows.ending import failing_in_one_line
from tasks.run_page import label_run
from tasks.runners import RunCluster
from tasks.tokenization import tokenize_alone


@flow(name="cpt-shard", flow_run_name="retry {shard}", persist_result=False)
@failing_in_one_line
def retry_shard(config: PipelineConfig, shard: str) -> dict[str, Any]:
    """Tokenize one shard, such as gsm8k-train-00003, and no other; a run of the whole corpus then finds it."""
    label_run(config)
    with RunCluster(config) as cluster:
        tokens = tokenize_alone(config, shard, cluster)
    get_run_logger().info("%s is in the store: Retry of the failed run, or a new run, goes on from here", shard)
    return {"shard": shard, "is_cached": tokens.is_cached, "uri": tokens.uri, **tokens.counts}
