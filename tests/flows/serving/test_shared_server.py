"""`cpt up` for several people: PostgreSQL, a password, an address that others reach, a schedule."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from flows.serving.api import ask
from flows.serving.embedded import embedded_server
from flows.serving.operation import down
from flows.serving.prefect_server import free_port
from flows.serving.processes import marked_processes
from tests.browser import chromium, requested_urls, wait_for_text
from tests.conftest import write_jsonl
from tests.postgres_server import postgres_server

CPT = str(Path(sys.executable).parent / "cpt")
PAGES = ("dashboard", "runs", "flows", "deployments", "work-pools", "artifacts", "automations", "events", "settings")


def in_lists(environment: dict[str, str], *arguments: str) -> tuple["subprocess.Popen[str]", set[str]]:
    """Run the command to its end, and what the list of processes showed of all programs meanwhile."""
    process = subprocess.Popen(
        [CPT, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    seen: set[str] = set()
    while process.poll() is None:
        for other in psutil.process_iter():
            try:
                seen.add(" ".join(other.cmdline()))
            except psutil.Error:
                continue
        time.sleep(0.1)
    return process, seen


@pytest.fixture
def shared(home, make_config, tmp_path):
    """The command in a home of its own, and a database server."""
    write_jsonl(tmp_path / "corpus/a.jsonl", ["ab"])
    config = tmp_path / "config.yaml"
    config.write_text(make_config().model_dump_json(), encoding="utf-8")
    with postgres_server() as database:
        environment = os.environ | {"CPT_HOME": str(home), "PGPASSWORD": database.password}
        try:
            yield environment, str(config), database
        finally:
            down(home)


@pytest.mark.timeout(1500)
def test_a_shared_server_keeps_its_secrets(home, shared, tmp_path, until):
    """It asks browsers and programs for the password; no page asks the outside; neither the password nor that of the
    database is in a list of processes, a log, the state file or the status; `down` leaves no file of a process.
    """
    environment, config, database = shared
    port = free_port()
    options = ["--host", "0.0.0.0", "--auth", "--database-url", database.url, "--every", "1h", "--port", str(port)]
    process, lists = in_lists(environment, "up", config, *options)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    auth = (home / "auth").read_text(encoding="utf-8").strip()
    assert (home / "auth").stat().st_mode & 0o777 == 0o600

    api_url = f"http://127.0.0.1:{port}/api"
    filters = {"json": {}, "timeout": 30}
    assert httpx.post(f"{api_url}/flow_runs/filter", **filters).status_code == 401
    user, _, password = auth.partition(":")
    assert httpx.post(f"{api_url}/flow_runs/filter", auth=(user, "guess"), **filters).status_code == 401
    assert httpx.post(f"{api_url}/flow_runs/filter", auth=(user, password), **filters).status_code == 200

    seen = subprocess.run([CPT, "status"], env=environment, capture_output=True, text=True, check=True).stdout
    lines = seen.splitlines()
    assert lines[:5] == [
        f"server       http://127.0.0.1:{port} answers; user and password are in {home / 'auth'}",
        f"database     PostgreSQL postgres on 127.0.0.1:{database.port}",
        "worker       online",
        "deployments  cpt-prepare/data-only, cpt-shard/retry-shard, cpt-train/train-only, cpt-watch/new-files,"
        " cpt/full-pipeline",
        "schedule     cpt-prepare/data-only every 1h",
    ]
    assert lines[-1] == (
        f'next         PREFECT_API_AUTH_STRING="$(cat {home / "auth"})" PREFECT_API_URL={api_url}'
        " prefect deployment run cpt/full-pipeline"
    )
    until(lambda: "ended        Completed  cpt-prepare prepare test" in status_of(environment))

    with embedded_server(home) as found:  # as `cpt run` does
        assert (found, ask(found, "flow_runs/count", {}) > 0) == (api_url, True)

    with chromium(tmp_path / "profile") as browser:
        origin = f"http://127.0.0.2:{port}"  # another name of this machine, as a colleague's browser has it
        browser.get(origin)
        wait_for_text(browser, "Login")
        browser.find_element(By.CSS_SELECTOR, "input").send_keys(auth + Keys.ENTER)
        wait_for_text(browser, "Flow Runs")
        for page in PAGES:
            browser.get(f"{origin}/{page}")
            wait_for_text(browser, "Runs")
        for page, text in pages_of_the_run(api_url, (user, password)).items():
            browser.get(f"{origin}/{page}")
            wait_for_text(browser, text)
        browser.get(f"{origin}/v2/dashboard")  # the second UI, which some prefer
        wait_for_text(browser, "Flow Runs")
        hosts = {urlsplit(url).netloc for url in requested_urls(browser) if url.startswith(("http", "ws"))}
    assert hosts == {f"127.0.0.2:{port}"}

    remote = [c.raddr.ip for p in marked_processes(home) for c in p.net_connections() if c.raddr]
    assert {address.rpartition(":")[2] for address in remote} <= {"127.0.0.1", "127.0.0.2"}
    logs = "".join(path.read_text(encoding="utf-8", errors="replace") for path in (home / "logs").iterdir())
    state = (home / "serving.json").read_text(encoding="utf-8")
    assert [secret for secret in (password, database.password) if secret in logs + state + seen + stdout + stderr] == []
    assert [line for line in lists if password in line or database.password in line] == []
    workers = [p for p in marked_processes(home) if "worker" in p.cmdline()]
    assert [p for p in workers if database.password in str(p.environ())] == []

    again = subprocess.run([CPT, "up", config, "--json"], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout)["already_running"] is True
    assert json.loads(again.stdout)["schedules"] == []
    other = subprocess.run([CPT, "up", config, "--host", "127.0.0.1"], env=environment, capture_output=True, text=True)
    assert (other.returncode, other.stderr) == (
        2,
        "cpt: --host cannot change while the server runs; type `cpt down`, then this command again\n",
    )
    subprocess.run([CPT, "down"], env=environment, check=True, capture_output=True)
    assert marked_processes(home) == []
    left = {path.name for path in home.iterdir() if not path.name.startswith("empty-prefect")}
    assert left == {"auth", "logs", "prefect"}
    assert [path for path in home.rglob("*") if not (path.is_file() or path.is_dir()) or path.suffix == ".pid"] == []


def pages_of_the_run(api_url: str, auth: tuple[str, str]) -> dict[str, str]:
    """Page -> a text on it: of the run, of one of its tables and one of its pictures, and the form that starts another."""

    def found(path: str, **question: object) -> dict:
        return httpx.post(f"{api_url}/{path}/filter", json=question, auth=auth, timeout=30).raise_for_status().json()[0]

    run = found("flow_runs", flow_runs={"state": {"type": {"any_": ["COMPLETED"]}}})  # and none that is only planned
    artifacts = {key: found("artifacts", artifacts={"key": {"any_": [key]}}) for key in ("outputs", "packing-fill")}
    return {
        f"runs/flow-run/{run['id']}": "pack a-00000",
        f"artifacts/artifact/{artifacts['outputs']['id']}": "store/tokens/a-00000",
        f"artifacts/artifact/{artifacts['packing-fill']['id']}": "Packing of test",
        f"deployments/deployment/{run['deployment_id']}/run": "row_len_tokens",
    }


def status_of(environment: dict[str, str]) -> str:
    """What `cpt status` prints."""
    return subprocess.run([CPT, "status"], env=environment, capture_output=True, text=True, check=True).stdout
