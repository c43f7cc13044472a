"""The data half of the job: sources -> packed rows."""

import time
from typing import Any

from prefect import flow

from cpt_core.config import PipelineConfig
from flows.ending import failing_in_one_line
from tasks.discovery import discover
from tasks.indexing import index_corpus
from tasks.packing import pack_corpus
from tasks.prepared import Prepared
from tasks.run_page import label_run, show_outputs
from tasks.runners import RunCluster, require_runner
from tasks.tokenization import tokenize_corpus


@flow(name="cpt-prepare", flow_run_name="prepare {config.name}", persist_result=False)
@failing_in_one_line
def prepare_corpus(config: PipelineConfig) -> dict[str, Any]:
    """Discover, tokenize, index and pack a corpus."""
    prepared = prepare(config)
    show_outputs(prepared)
    return prepared.summary()


def prepare(config: PipelineConfig) -> Prepared:
    """The four data stages, inside whichever flow runs them."""
    require_runner(config.orchestration)
    label_run(config)
    clock = StageClock()
    manifest = discover(config)
    clock.lap("discovery")
    with RunCluster(config) as cluster:
        tokenizer, tokens = tokenize_corpus(manifest, config, cluster)
        clock.lap("tokenization")
        index = index_corpus(manifest, tokens, config)
        clock.lap("indexing")
        packed = pack_corpus(manifest, tokens, index, tokenizer.pad_id, config, cluster)
        clock.lap("packing")
    return Prepared(manifest, tokenizer, tokens, index, packed, clock.seconds)


class StageClock:
    """Wall time of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """The stage has ended now."""
        now = time.perf_counter()
        self.seconds[stage], self._last = now - self._last, now
