"""What to type when something failed.

In: the run that this process is in.
Out: a sentence with the command.
"""

from prefect.context import FlowRunContext


def how_to_retry(shard: str) -> str:
    """The commands that compute what is missing, and nothing else.

    Args:
        shard: name of one that failed.
    """
    alone = f"one shard alone is computed by `cpt retry-shard CONFIG {shard}`"
    context = FlowRunContext.get()
    if context and context.flow_run and context.flow_run.deployment_id:
        return (
            f"Mend the cause, then `prefect flow-run retry {context.flow_run.id}` or the Retry button go on with what "
            f"is missing; {alone} or by the deployment cpt-shard/retry-shard"
        )
    return f"Mend the cause, then the same command goes on with what is missing; {alone}"
