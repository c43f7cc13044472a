"""What a user reads when S3 does not let them."""

import hashlib

import pytest

from cpt_core.errors import ConfigError, InputError, StoreError
from cpt_core.storage import Store, expand
from tests.s3_server import READER_KEY, READER_SECRET

CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
DENIED = f"check {CREDENTIALS}, and that they permit to list and read, and for a store to write, there"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"AWS_SECRET_ACCESS_KEY": "canary"},
            f"the credentials are wrong (SignatureDoesNotMatch); check {CREDENTIALS}",
        ),
        (
            {"AWS_ACCESS_KEY_ID": "AKIACANARYCANARY0000"},
            f"the credentials are wrong (InvalidAccessKeyId); check {CREDENTIALS}",
        ),
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            f"Unable to locate credentials; set {CREDENTIALS}",
        ),
        (
            {"AWS_PROFILE": "canary-profile"},
            f"The config profile (canary-profile) could not be found; set {CREDENTIALS}",
        ),
        (
            {"AWS_ENDPOINT_URL": "nonsense"},
            "Invalid endpoint: nonsense; check AWS_ENDPOINT_URL and the network, then run again",
        ),
    ],
)
def test_wrong_credentials_and_endpoints_are_one_clear_line(aws, variables, message):
    """For a source and for a store alike."""
    aws(**variables)
    with pytest.raises(InputError) as refused:
        expand("s3://tests/corpus", (".jsonl",))
    assert str(refused.value) == f"s3://tests/corpus: {message}"
    with pytest.raises(StoreError) as refused:
        Store("s3://tests/store").replace("a", b"1")
    assert str(refused.value) == f"s3://tests/store/a: {message}"


def test_an_endpoint_that_nobody_listens_at_is_named(aws, impatient):
    """With what to check."""
    aws(endpoint="http://127.0.0.1:9")
    with pytest.raises(StoreError) as refused:
        Store("s3://tests/store").read_bytes("a")
    assert str(refused.value) == (
        's3://tests/store/a: Could not connect to the endpoint URL: "http://127.0.0.1:9/tests/store/a"; '
        "check AWS_ENDPOINT_URL and the network, then run again"
    )


@pytest.mark.parametrize(
    "uri", ["s3://nowhere", "s3://nowhere/corpus", "s3://nowhere/corpus/a.jsonl", "s3://nowhere/*/*.jsonl"]
)
def test_a_missing_bucket_of_a_source_is_not_an_empty_one(aws, uri):
    """A typing error in its name is not an empty corpus."""
    with pytest.raises(InputError) as refused:
        expand(uri, (".jsonl",))
    assert str(refused.value) == (
        f"{uri}: the bucket does not exist (NoSuchBucket); create it, or correct the URI or AWS_ENDPOINT_URL"
    )


@pytest.mark.parametrize("uri", ["s3://nowhere", "s3://nowhere/store"])
def test_a_missing_bucket_of_a_store_is_not_made_in_passing(aws, uri):
    """Whichever the first question to it is."""
    for act in (
        lambda store: store.read_bytes("a"),
        lambda store: store.create("a", b"1"),
        lambda store: store.folders(""),
    ):
        with pytest.raises(StoreError, match=rf"^{uri}.*: the bucket does not exist"):
            act(Store(uri))


def test_a_reader_may_read_and_learns_that_it_may_not_write(s3, base, aws, tmp_path):
    """Permission is told apart from credentials."""
    s3.client().pipe_file(f"{base}/a.jsonl", b"{}")
    aws(AWS_ACCESS_KEY_ID=READER_KEY, AWS_SECRET_ACCESS_KEY=READER_SECRET)
    assert [file.uri for file in expand(f"s3://{base}", (".jsonl",))] == [f"s3://{base}/a.jsonl"]
    (tmp_path / "file").write_bytes(b"x")
    store = Store(f"s3://{base}")
    for act in (
        lambda: store.replace("b", b"1"),
        lambda: store.publish(tmp_path / "file", "b", hashlib.sha256(b"x").hexdigest()),
    ):
        with pytest.raises(StoreError) as refused:
            act()
        assert str(refused.value) == f"s3://{base}/b: access is denied (AccessDenied); {DENIED}"


@pytest.mark.parametrize("uri", ["s3://key:canary@bucket/a", "https://host/a.jsonl?X-Amz-Signature=canary"])
def test_credentials_in_a_uri_are_refused_without_repeating_them(make_config, uri):
    """Before anything is asked, as a wrong configuration; and not by configurations alone."""
    with pytest.raises(ConfigError, match="carries a password or a signature") as refused:
        expand(uri, (".jsonl",))
    with pytest.raises(ConfigError):
        Store(uri)
    with pytest.raises(ValueError, match="carries a password or a signature"):
        make_config(discovery={"sources": [{"name": "a", "uris": [uri]}]})
    assert "canary" not in str(refused.value)


def test_a_uri_without_a_bucket_says_so(aws):
    """All of S3 is no corpus."""
    with pytest.raises(InputError, match=r"^s3://: names no bucket; expected s3://bucket/folder$"):
        expand("s3://", (".jsonl",))
