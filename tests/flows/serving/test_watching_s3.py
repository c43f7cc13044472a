"""`cpt up --watch` with sources and store on S3."""

import pytest

from flows.serving.operation import down
from tests.flows.serving.scheduled import Scheduled, watching
from tests.s3_chaos import config_of, environment


@pytest.fixture
def watched(s3, home, tmp_path, tokenizer_folder):
    """No object is there yet; the standard variables alone say where to look and as whom."""
    base = f"s3://{s3.bucket}/{tmp_path.name}"
    with environment(s3.environment()):
        try:
            yield Scheduled(home, config_of(f"{base}/corpus", f"{base}/store", tokenizer_folder), watching())
        finally:
            down(home)
    s3.client().rm(f"{s3.bucket}/{tmp_path.name}", recursive=True)


@pytest.mark.matrix  # two minutes, and but for the listing what the suite shows in a folder
@pytest.mark.timeout(1500)
def test_a_new_object_starts_one_run_that_computes_only_its_shard(watched, s3, tmp_path, until):
    """So does one that is replaced by another of the same size; further looks at the same objects start nothing."""
    corpus = f"{s3.bucket}/{tmp_path.name}/corpus"

    def put(name: str, text: str) -> None:
        s3.client().pipe_file(f"{corpus}/{name}.jsonl", b'{"text": "%s"}\n' % text.encode())

    def new_run(number: int) -> dict:
        until(lambda: [run["state_type"] for run in watched.runs()] == ["COMPLETED"] * number)
        return watched.runs()[-1]

    assert watched.look().startswith(f"nothing to do yet: discovery.sources: a: s3://{corpus} matches no file")
    put("1", "the first object")
    first = new_run(1)
    until(lambda: watched.shards(first) == {"tokenize a-00000": "Completed"})
    put("2", "the second object")
    second = new_run(2)
    until(lambda: watched.shards(second) == {"tokenize a-00000": "Cached", "tokenize a-00001": "Completed"})
    put("1", "THE FIRST OBJECT")
    third = new_run(3)
    until(lambda: watched.shards(third) == {"tokenize a-00000": "Completed", "tokenize a-00001": "Cached"})

    looks = len(watched.runs("cpt-watch"))
    until(lambda: len([run for run in watched.runs("cpt-watch")[looks:] if run["state_type"] == "COMPLETED"]) == 2)
    said = {run["state"]["message"] for run in watched.runs("cpt-watch")[looks:] if run["state_type"] == "COMPLETED"}
    assert said == {f"nothing new; these files are those of the run {third['name']}, which is Completed"}
    assert [run["id"] for run in watched.runs()] == [first["id"], second["id"], third["id"]]
