"""The training half of the job: packed rows -> a further-trained model and its scores."""

from typing import Any

from prefect import flow

from cpt_core.config import PipelineConfig
from flows.ending import failing_in_one_line
from flows.prepare_corpus import prepare
from tasks.evaluation import evaluate_base, evaluate_trained
from tasks.prepared import Prepared
from tasks.run_page import show_outputs
from tasks.trained import Trained
from tasks.training import train_corpus


@flow(name="cpt-train", flow_run_name="train {config.name}", persist_result=False)
@failing_in_one_line
def train_model(config: PipelineConfig) -> dict[str, Any]:
    """Train on the packed rows of the configuration; data stages that are not in the store yet run first."""
    prepared = prepare(config)
    trained = train(prepared, config)
    show_outputs(prepared, trained)
    return trained.summary()


def train(prepared: Prepared, config: PipelineConfig) -> Trained:
    """Score the base model, train, score the result."""
    base_losses = evaluate_base(prepared, config)
    model = train_corpus(prepared, config)
    trained_losses = evaluate_trained(model, prepared, config)
    return Trained(model, base_losses, trained_losses)
