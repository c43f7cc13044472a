"""Sources on S3: what is listed, read, and noticed to have changed."""

import pytest

from cpt_core.config import DiscoveryConfig
from cpt_core.discovery import discover_sources
from cpt_core.errors import InputChangedError, InputError
from cpt_core.storage import Store, expand, open_input, stat_input
from cpt_core.tokenization import load_tokenizer, tokenize_shard
from tests.s3_proxy import Request

ODD_NAMES = [
    " space .jsonl",
    "a#b?c.jsonl",
    "a::b.jsonl",
    "a+b%20c%.jsonl",
    "deep/er/[x]*.jsonl",
    "ümläut-文.jsonl",
    "~&=;'.jsonl",
]


def test_names_with_odd_characters_are_listed_and_read_as_they_are(s3, base):
    """Spaces, unicode, plus and percent signs, and what has a meaning in URLs and globs; sorted bytewise."""
    for name in ODD_NAMES:
        s3.client().pipe_file(f"{base}/c/{name}", name.encode())
    found = expand(f"s3://{base}/c", (".jsonl",))
    assert [file.uri for file in found] == [f"s3://{base}/c/{name}" for name in sorted(ODD_NAMES, key=str.encode)]
    for file in found:
        assert stat_input(file.uri) == file
        assert expand(file.uri, (".none",)) == [file]
        with open_input(file.uri) as stream:
            assert file.uri.encode().endswith(b"/c/" + stream.read())


def test_files_folders_and_globs(s3, base):
    """A folder stands for its files at every depth, a glob for its matches, a name for itself."""
    for name in ("a.jsonl", "b/c.jsonl", "b/d.txt"):
        s3.client().pipe_file(f"{base}/{name}", b"{}")

    def names(uri: str) -> list[str]:
        return [file.uri.removeprefix(f"s3://{base}/") for file in expand(uri, (".jsonl",))]

    assert names(f"s3://{base}") == names(f"s3://{base}/") == ["a.jsonl", "b/c.jsonl"]
    assert names(f"s3://{base}/b/*") == ["b/c.jsonl", "b/d.txt"]
    assert names(f"s3://{base}/**/*.jsonl") == ["a.jsonl", "b/c.jsonl"]
    assert names(f"s3://{base}/b/d.txt") == ["b/d.txt"]
    assert names(f"s3://{base}/none") == names(f"s3://{base}/*.none") == []


@pytest.mark.parametrize("pattern", ["*/*.jsonl", "**/*.jsonl", "", "deep/*.jsonl"])
def test_a_listing_that_fails_is_an_error_and_not_fewer_files(s3, base, through_proxy, pattern):
    """Below a folder, a glob at any depth and a recursive glob."""
    for name in ("a/1.jsonl", "deep/2.jsonl"):
        s3.client().pipe_file(f"{base}/{name}", b"{}")

    def choose(request: Request) -> str | None:
        is_listing, is_of_all_below = "list-type=2" in request.path, "delimiter=%2F" not in request.path
        return "403 AccessDenied" if is_listing and ("deep" in request.path or is_of_all_below) else None

    through_proxy(choose)
    with pytest.raises(InputError, match=r"access is denied \(AccessDenied\)"):
        expand(f"s3://{base}/{pattern}".rstrip("/"), (".jsonl",))


def test_more_objects_than_one_page_of_a_listing_holds(s3, base, through_proxy):
    """A thousand and one objects come in two pages, with one request each and none for an object."""
    s3.client().pipe({f"{base}/c/{number:04}.jsonl": b"{}" for number in range(1001)})
    proxy = through_proxy(lambda request: None)
    found = expand(f"s3://{base}/c", (".jsonl",))
    assert [file.uri for file in found] == [f"s3://{base}/c/{number:04}.jsonl" for number in range(1001)]
    assert proxy.counts == {"passed": 2}


def test_the_version_of_an_object_is_its_etag(s3, base):
    """Another content of the same size is another version; the listing tells the same as the object."""
    s3.client().pipe_file(f"{base}/a.jsonl", b"1")
    first = stat_input(f"s3://{base}/a.jsonl")
    assert first.version == '"c4ca4238a0b923820dcc509a6f75849b"'
    s3.client().pipe_file(f"{base}/a.jsonl", b"2")
    assert [stat_input(first.uri)] == expand(first.uri, ()) != [first]


def shards_and_tokenizer(base, make_config, store, mode):
    """What discovery plans for the test's folder."""
    config = make_config().tokenization
    discovery = DiscoveryConfig.model_validate(
        {"sources": [{"name": "a", "uris": [f"s3://{base}"]}], "fingerprint_inputs": mode}
    )
    return discover_sources(discovery, config.shard_size_bytes, store=store).shards, config, load_tokenizer(config)


@pytest.mark.parametrize("mode", ["content", "stat"])
def test_an_object_replaced_after_discovery_stops_its_shard(s3, base, make_config, store, mode):
    """Nothing is committed of bytes that were not planned."""
    s3.client().pipe_file(f"{base}/a.jsonl", b'{"text": "ab"}\n')
    (shard,), config, tokenizer = shards_and_tokenizer(base, make_config, store, mode)
    s3.client().pipe_file(f"{base}/a.jsonl", b'{"text": "cd"}\n')
    with pytest.raises(InputChangedError, match=rf"^s3://{base}/a.jsonl: changed since it was discovered; run again"):
        tokenize_shard(shard, config, tokenizer=tokenizer, store=store)
    assert store.folders("tokens") == []


def test_an_object_replaced_while_it_is_read_is_noticed(s3, base, monkeypatch):
    """A stream never continues with another version's bytes."""
    monkeypatch.setattr("cpt_core.storage.s3.BLOCK_BYTES", 1000)
    s3.client().pipe_file(f"{base}/a.jsonl", b"1" * 10_000)
    with open_input(f"s3://{base}/a.jsonl") as stream:
        assert stream.read(10) == b"1" * 10
        s3.client().pipe_file(f"{base}/a.jsonl", b"2" * 10_000)
        with pytest.raises(InputChangedError, match=rf"^s3://{base}/a.jsonl: changed while it was read"):
            stream.read()


def test_credentials_that_expire_during_a_run_fail_shards_that_a_rerun_completes(
    s3, base, aws, make_config, store, through_proxy
):
    """What was committed before is kept, and the reason says what to do."""
    for name in "ab":
        s3.client().pipe_file(f"{base}/{name}.jsonl", b'{"text": "%s"}\n' % name.encode())
    (first, second), config, tokenizer = shards_and_tokenizer(base, make_config, store, "content")

    def choose(request: Request) -> str | None:
        return "400 ExpiredToken" if request.method == "GET" and request.path.endswith("b.jsonl") else None

    through_proxy(choose)
    done = tokenize_shard(first, config, tokenizer=tokenizer, store=store)
    with pytest.raises(InputError) as failed:
        tokenize_shard(second, config, tokenizer=tokenizer, store=store)
    assert str(failed.value) == (
        f"s3://{base}/b.jsonl: the credentials have expired (ExpiredToken); "
        "renew them and run again; what is committed is kept"
    )
    aws()
    assert tokenize_shard(first, config, tokenizer=tokenizer, store=Store(store.root_uri)) == done
    assert tokenize_shard(second, config, tokenizer=tokenizer, store=store).counts["documents_out"] == 1
