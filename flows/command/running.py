"""Commands that compute: ``run``, ``prepare``, ``train``, ``retry-shard``."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from cpt_core.config import LauncherConfig, PipelineConfig, TrainingConfig
from cpt_core.config_file import load_config
from cpt_core.errors import CptError
from cpt_core.launching.compiler import extension_is_built, extension_is_needed, require_compiler
from cpt_core.launching.environment import current_environment, node_rank
from cpt_core.launching.job import EXTRA_SECONDS_TO_STOP
from flows.command.options import AsJson, ConfigPath, Overrides
from flows.command.output import print_json, print_run, want_json
from flows.command.progress_screen import Screen, discovery_bar, progress_screen
from flows.command.stopping import allow_more

if TYPE_CHECKING:
    from tasks.listening import Progress


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(run)
    app.command()(prepare)
    app.command()(train)
    app.command("retry-shard")(retry_shard)


def run(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """The whole job in this process, on a Prefect server of its own: data, training, evaluation."""
    want_json(as_json)
    loaded = load_config(config, overrides)
    loaded.require_training()

    def whole_job() -> Any:
        from flows.continued_pretraining import continued_pretraining

        return continued_pretraining

    _execute(whole_job, loaded, as_json, with_training=True)


def prepare(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """The data stages: discover, tokenize, index, pack."""
    want_json(as_json)
    loaded = load_config(config, overrides)

    def data_stages() -> Any:
        from flows.prepare_corpus import prepare_corpus

        return prepare_corpus

    _execute(data_stages, loaded, as_json, with_training=False)


def train(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Training and evaluation on the packed rows of the configuration."""
    want_json(as_json)
    loaded = load_config(config, overrides)
    if node_rank(loaded.require_training().launcher, current_environment()) > 0:
        _join(loaded, as_json)
        return

    def training() -> Any:
        from flows.train_model import train_model

        return train_model

    _execute(training, loaded, as_json, with_training=True)


def retry_shard(config: ConfigPath, shard: str, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Tokenize one shard, such as gsm8k-train-00003, alone."""
    from tasks.alone import tokenize_one
    from tasks.stage_lines import counted

    want_json(as_json)
    loaded = load_config(config, overrides)
    with progress_screen() as screen:
        tokens = tokenize_one(loaded, shard, tell=partial(screen.stage, "tokenization"))
    if as_json:
        print_json({"shard": shard, "is_cached": tokens.is_cached, "uri": tokens.uri, **tokens.counts})
    else:
        how = "was in the store already" if tokens.is_cached else "computed"
        documents = counted(tokens.counts["documents_out"], "document")
        print(f"{shard}: {how}; {documents}, {counted(tokens.counts['tokens'], 'token')}")
        print(tokens.uri)


def _join(config: PipelineConfig, as_json: bool) -> None:
    """A node other than the first: its processes train, the first node runs the flow and evaluates."""
    from tasks.alone import join_training

    trained = join_training(config)
    if as_json:
        print_json(trained.counts)
    else:
        print(f"this node's part of the training has ended; model {trained.counts['hf_model_uri']}")


def _execute(load_flow: Callable[[], Any], config: PipelineConfig, as_json: bool, *, with_training: bool) -> None:
    """Run a flow, which is imported only when something is left to do: with Prefect that takes seconds."""
    summary = _already_done(config, with_training) or _run_flow(load_flow(), config)
    if as_json:
        print_json(summary)
    else:
        print_run(summary)


def _already_done(config: PipelineConfig, with_training: bool) -> dict[str, Any] | None:
    """The summary of a run with nothing left to do; starting a server for it would be all its cost."""
    from tasks.planning import plan_run

    with progress_screen() as screen:
        plan = plan_run(config, with_training=with_training, on_progress=discovery_bar(screen))
    plan.require_few_bad_lines()
    if plan.to_do() or plan.prepared is None:
        return None
    with progress_screen() as screen:
        for stage, line in plan.stage_lines():
            screen.stage(stage, line)
        screen.line("every stage is in the store already: nothing to do")
    trained = plan.trained.summary() if plan.trained else {}
    return {**plan.prepared.summary(), **trained}


def _run_flow(flow: Any, config: PipelineConfig) -> dict[str, Any]:
    from flows.serving.embedded import embedded_server
    from flows.serving.environment import cpt_home
    from tasks.listening import listen

    with progress_screen() as screen:
        if config.training is not None and flow.name != "cpt-prepare":
            listen(grace_of(config.training.launcher))
            _prepare_compiler(config.training, screen)
        listen(screen.show)
        with embedded_server(cpt_home(), tell=screen.line) as api_url:
            screen.line(f"Prefect at {api_url.removesuffix('/api')}")
            state = flow(config, return_state=True)
    result = state.result(raise_on_failure=False)
    if isinstance(result, CptError):
        raise result
    if not isinstance(result, dict):
        state.result()
        raise RuntimeError(f"the flow ended {state.name} without a result")
    return result


def grace_of(launcher: LauncherConfig) -> Callable[["Progress"], None]:
    """What hears of progress, and lets a signal wait for the end of a job on other machines while one runs."""
    extra_seconds = EXTRA_SECONDS_TO_STOP.get(launcher.kind, 0.0)

    def mind(progress: "Progress") -> None:
        is_training = progress.stage == "training" and not progress.is_finished
        allow_more(extra_seconds if is_training else 0.0)

    return mind


def _prepare_compiler(training: TrainingConfig, screen: Screen) -> None:
    """Name a missing compiler before anything starts, and say when the first start will take longer."""
    environment = current_environment()
    if not extension_is_needed(training.device):
        return
    require_compiler(training.launcher, environment)
    if not extension_is_built(training.launcher, environment):
        screen.line("DeepSpeed compiles a small extension at its first start: about a minute, kept for the next run")
