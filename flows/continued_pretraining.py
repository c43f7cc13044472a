"""The whole job: sources -> packed rows -> a further-trained model and its scores."""

from typing import Any

from prefect import flow

from cpt_core.config import PipelineConfig
from flows.ending import failing_in_one_line
from flows.prepare_corpus import prepare
from flows.train_model import train
from tasks.run_page import show_outputs


@flow(name="cpt", flow_run_name="{config.name}", persist_result=False)
@failing_in_one_line
def continued_pretraining(config: PipelineConfig) -> dict[str, Any]:
    """Discover, tokenize, index, pack, train, evaluate."""
    config.require_training()
    prepared = prepare(config)
    trained = train(prepared, config)
    show_outputs(prepared, trained)
    return {**prepared.summary(), **trained.summary()}
