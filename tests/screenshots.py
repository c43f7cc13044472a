"""Takes the pictures of docs/images: ``python -m tests.screenshots``.

The whole job on a small corpus, started as a deployment on a real server, looked at in headless Chromium while it runs
and afterwards.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium.webdriver.remote.webdriver import WebDriver

from cpt_core.config import PipelineConfig
from cpt_core.config_file import load_config
from flows.serving.api import ask
from flows.serving.operation import down, up
from flows.serving.prefect_server import free_port
from tests.browser import chromium, click, wait_for_text
from tests.conftest import REPOSITORY

IMAGES = REPOSITORY / "docs" / "images"
MAX_BYTES = 200_000
SECONDS = 1800
SMALLER = (
    "packing.row_len_tokens=256",
    "training.global_batch_rows=8",
    "training.launcher.processes_per_node=1",
    "evaluation.max_rows_per_source=16",
)
"""So that a run takes a minute."""
_PAGES = {
    "artifacts": "artifacts",
    "tokenization": "tokenization-table",
    "indexing": "indexing-table",
    "packing": "packing-table",
    "training": "training-table",
    "outputs": "outputs",
}
"""File name to key of the artifact; ``artifacts`` is the list of all."""


def main() -> None:
    """Run, look, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots")
    parser.add_argument("--folder", type=Path, default=IMAGES, help="where the pictures go")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["DO_NOT_TRACK"] = "1"
    with tempfile.TemporaryDirectory(prefix="cpt-screenshots-") as name:
        place = Path(name)
        home = place / "home"
        home.mkdir()
        try:
            seen = up(demo_config(place), home=home, port=free_port())
            assert seen.api_url and seen.ui_url
            with chromium(place / "profile") as browser:
                take_all(browser, seen.api_url, seen.ui_url, folder)
        finally:
            down(home)


def demo_config(place: Path) -> PipelineConfig:
    """The demo, with its corpus and store in a folder of their own."""
    corpus = place / "corpus"
    subprocess.run(
        [sys.executable, "-c", "from flows.command import main; main()", "demo", "corpus", str(corpus)], check=True
    )
    config = load_config(
        str(REPOSITORY / "deployments/parameters/demo.yaml"), [f"store_uri={place / 'store'}", *SMALLER]
    )
    values = config.model_dump(mode="json")
    for source in values["discovery"]["sources"]:
        source["uris"] = [str(corpus / Path(uri).name) for uri in source["uris"]]
    for section in (values["tokenization"], values["training"]):
        key = "tokenizer" if "tokenizer" in section else "model"
        section[key] = str(REPOSITORY / section[key])
    return PipelineConfig.model_validate(values)


def take_all(browser: WebDriver, api_url: str, ui_url: str, folder: Path) -> None:
    """Start the deployment, look at it while it trains, when it has ended, and at a second run."""
    browser.set_window_size(1280, 900)
    run_id = start(api_url)
    take_live(browser, api_url, ui_url, run_id, folder)
    wait(lambda: state_of(api_url, run_id) == "COMPLETED")
    take_finished(browser, api_url, ui_url, run_id, folder)
    again = start(api_url)
    wait(lambda: state_of(api_url, again) == "COMPLETED")
    open_page(browser, f"{ui_url}/runs/flow-run/{again}", "Completed")
    click(browser, "//*[contains(@class, 'p-tab')][normalize-space(.)='Task Runs']")
    wait_for_text(browser, "Cached")
    time.sleep(3)
    save(browser, folder / "cached.png")


def take_live(browser: WebDriver, api_url: str, ui_url: str, run_id: str, folder: Path) -> None:
    """The page of a run that trains, and its progress."""
    run_page = f"{ui_url}/runs/flow-run/{run_id}"
    wait(lambda: state_of(api_url, run_id) == "RUNNING" and progress_of(api_url, "training") > 40)
    open_page(browser, run_page, "train demo")
    save(browser, folder / "run-live.png")
    open_latest(browser, api_url, ui_url, "training", "left")
    save(browser, folder / "progress.png")


def take_finished(browser: WebDriver, api_url: str, ui_url: str, run_id: str, folder: Path) -> None:
    """The page of a run that has ended, and its artifacts."""
    open_page(browser, f"{ui_url}/runs/flow-run/{run_id}", "Completed")
    save(browser, folder / "run.png")
    for name, key in _PAGES.items():
        if key == "artifacts":
            open_page(browser, f"{ui_url}/artifacts", "packing-fill")
        else:
            open_latest(browser, api_url, ui_url, key, "demo" if key != "outputs" else "checkpoint")
        save(browser, folder / f"{name}.png")


def start(api_url: str) -> str:
    """A run of the whole job; its id."""
    (deployment,) = ask(api_url, "deployments/filter", {"deployments": {"name": {"any_": ["full-pipeline"]}}})
    run: dict[str, Any] = ask(api_url, f"deployments/{deployment['id']}/create_flow_run", {})
    return str(run["id"])


def state_of(api_url: str, run_id: str) -> str:
    """Type of a flow run's state; a failed one ends the program."""
    (run,) = ask(api_url, "flow_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
    if run["state_type"] in ("FAILED", "CRASHED", "CANCELLED"):
        raise RuntimeError(f"the run ended: {run['state']}")
    return str(run["state_type"])


def latest(api_url: str, key: str) -> dict[str, Any] | None:
    """The newest artifact of a key."""
    found = ask(api_url, "artifacts/filter", {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"})
    return found[0] if found else None


def progress_of(api_url: str, key: str) -> float:
    """Percent of a stage, 0 before it begins."""
    found = latest(api_url, key)
    return float(found["data"]) if found else 0.0


def open_latest(browser: WebDriver, api_url: str, ui_url: str, key: str, text: str) -> None:
    """The page of an artifact."""
    found = latest(api_url, key)
    assert found is not None, key
    open_page(browser, f"{ui_url}/artifacts/artifact/{found['id']}", text)


def open_page(browser: WebDriver, url: str, text: str) -> None:
    """A page, once it shows a text and has come to rest."""
    browser.get(url)
    wait_for_text(browser, text)
    time.sleep(3)  # the UI draws its graph with an animation and tells nobody when it ends


def save(browser: WebDriver, path: Path) -> None:
    """One picture."""
    browser.save_screenshot(str(path))
    size = path.stat().st_size
    print(f"{path} {size:,} bytes", file=sys.stderr)
    if size > MAX_BYTES:
        raise RuntimeError(f"{path} has {size:,} bytes, expected at most {MAX_BYTES:,}")


def wait(true: Callable[[], bool]) -> None:
    """Until something is true."""
    deadline = time.monotonic() + SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true after {SECONDS} s")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
