"""`cpt prepare` with sources and store on S3: credentials come by the environment alone and go nowhere."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.homes import new_home
from tests.planted_secrets import DEBUG, PLANTED, SECRETS, SESSION_TOKEN, files_under, found_in, watched
from tests.s3_chaos import config_of
from tests.s3_proxy import s3_proxy

CPT = str(Path(sys.executable).parent / "cpt")


@pytest.fixture
def base(s3, tmp_path) -> Iterator[str]:
    """A corpus of two files at a place of its own."""
    base = f"{s3.bucket}/{tmp_path.name}"
    for name in ("1", "2"):
        s3.client().pipe_file(f"{base}/corpus/{name}.jsonl", b'{"text": "%s"}\n' % name.encode())
    yield base
    s3.client().rm(base, recursive=True)


@pytest.fixture
def prepare(s3, base, home_with_schema, tmp_path, tokenizer_folder):
    """Start `cpt prepare --json` there; further variables come on top of the server's."""
    home = new_home(home_with_schema, tmp_path / "home")
    others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}

    def start(store: str = f"s3://{base}/store", **variables: str) -> subprocess.Popen[str]:
        config = config_of(f"s3://{base}/corpus", store, tokenizer_folder)
        (tmp_path / "config.json").write_text(config.model_dump_json(), encoding="utf-8")
        return subprocess.Popen(
            [CPT, "prepare", "config.json", "--json"],
            cwd=tmp_path,
            env=others | s3.environment() | {"CPT_HOME": str(home)} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_prepare_reads_from_s3_and_writes_to_s3(prepare, base):
    """Nothing but the standard variables says where and as whom; the second run finds everything."""
    process = prepare()
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    summary = json.loads(stdout)
    assert (summary["documents_out"], summary["shards_computed"], summary["rows"]) == (2, 2, 1)
    assert summary["artifacts"]["index"].startswith(f"s3://{base}/store/index/s3-")
    stdout, stderr = prepare().communicate(timeout=300)
    assert json.loads(stdout)["shards_cached"] == 2
    assert stderr.splitlines()[-1] == "every stage is in the store already: nothing to do"


@pytest.mark.parametrize(
    ("variables", "store", "reason"),
    [
        (
            {"AWS_SECRET_ACCESS_KEY": "canary"},
            None,
            "the credentials are wrong (SignatureDoesNotMatch); check AWS_ACCESS",
        ),
        ({}, "s3://nowhere/store", "the bucket does not exist (NoSuchBucket); create it, or correct the URI"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, None, "Could not connect to the endpoint URL"),
    ],
)
def test_a_store_that_does_not_let_the_user_in_is_one_line(prepare, variables, store, reason):
    """No traceback of another thread, no complaint of a client that was not closed; nothing secret."""
    process = prepare(**({"store": store} if store else {}), **variables)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 1
    (line,) = stderr.splitlines()
    assert line.startswith("cpt: s3://")
    assert reason in line
    assert json.loads(stdout)["error"] == line.removeprefix("cpt: ")
    assert "canary" not in stdout + stderr


def test_a_signed_uri_is_refused_before_anything_keeps_it(tmp_path, tokenizer_folder):
    """Exit code 2, and the signature is not printed."""
    config = config_of("s3://tests/corpus", "s3://tests/store", tokenizer_folder)
    (tmp_path / "config.json").write_text(config.model_dump_json(), encoding="utf-8")
    signed = "https://host/a.jsonl?X-Amz-Signature=canary"
    command = [CPT, "prepare", "config.json", "--json", "--set", f"discovery.sources.0.uris.0={signed}"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 2
    assert refused.stderr == (
        "cpt: config.json: discovery.sources.0.uris.0: https://host/a.jsonl?X-Amz-Signature=*** carries a password or "
        "a signature, which would end in records and logs; leave it out and set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or what the file system's library reads by itself\n"
    )
    assert "canary" not in refused.stdout


def test_no_secret_of_the_environment_is_found_anywhere_afterwards(s3, prepare, base, tmp_path):
    """A run that ends well, one that fails, one that is refused and one behind a dead proxy, at debug logging: output,
    home with Prefect's database, the store's objects and the process list hold none of the planted secrets.
    """
    seen = watched(prepare(**PLANTED, **DEBUG))
    assert seen.returncode == 0, seen.output

    def choose(request) -> str | None:
        return "403 AccessDenied" if request.is_conditional_put else None

    with s3_proxy(s3, choose) as proxy:
        failed = watched(prepare(f"s3://{base}/other", AWS_ENDPOINT_URL=proxy.endpoint, **PLANTED, **DEBUG))
    assert failed.returncode == 1
    assert "access is denied (AccessDenied)" in failed.output

    refused = watched(prepare(**SESSION_TOKEN, **PLANTED, **DEBUG))
    assert refused.returncode == 1

    unreached = watched(prepare(AWS_ENDPOINT_URL="http://store.invalid", **PLANTED, **DEBUG))
    assert unreached.returncode == 1
    assert "proxy" in unreached.output

    haystack = {
        **seen.haystack("run that ends well"),
        **failed.haystack("run that fails"),
        **refused.haystack("run that is refused"),
        **unreached.haystack("run behind a proxy"),
        **files_under(tmp_path),
        **{path: s3.client().cat_file(path) for path in s3.client().find(base)},
    }
    assert found_in(haystack, [*SECRETS, s3.secret_key]) == []
    # The places are those where a secret would be: logs at debug level, the database with this run, the processes.
    assert "DEBUG" in seen.output
    assert any("prepare" in line for line in seen.command_lines)
    assert any(b"access is denied" in content for place, content in haystack.items() if "prefect.db" in place)
    assert any(place.endswith("artifact.json") for place in haystack)
