"""Secrets are recognised by their shape."""

import pytest

from cpt_core.errors import ConfigError, ShardsFailedError
from cpt_core.redaction import redacted, secret_in


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AWS_SECRET_ACCESS_KEY=abc/def+1, next", "AWS_SECRET_ACCESS_KEY=***, next"),
        ("aws_secret_access_key = abc", "aws_secret_access_key = ***"),
        ("HF_TOKEN: abc", "HF_TOKEN: ***"),
        ("PREFECT_API_AUTH_STRING=admin:pass", "PREFECT_API_AUTH_STRING=***"),
        ("PASSWORD=abc;SECRET=def", "PASSWORD=***;SECRET=***"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=x, Signature=y", "Authorization: ***"),
        ("{'x-amz-security-token': 'abc'}", "{'x-amz-security-token': ***"),
        ("key AKIAIOSFODNN7EXAMPLE is", "key *** is"),
        ("with hf_abcdefghijkl.", "with ***."),
        ("GET /a?X-Amz-Credential=b&X-Amz-Signature=c&d=e", "GET /a?X-Amz-Credential=***&X-Amz-Signature=***&d=e"),
        ("cannot reach http://user:pa@ss@host:9/a@b", "cannot reach http://***@host:9/a@b"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text, expected):
    """The name stays, so that a reader knows which secret it was."""
    assert redacted(text) == expected
    assert redacted(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/key=1/a@b.jsonl: tokenizer says eos_token='</s>'",
        "expected: max_steps=10 of http://127.0.0.1:9000/x",
        "sha256 0a1b; key a-00003-9e45f820; TOKENS=5",
    ],
)
def test_ordinary_text_stays_as_it_is(text):
    """Neither keys of artifacts nor names of tokens are secrets."""
    assert redacted(text) == text


def test_no_error_repeats_a_secret():
    """Whatever text of a library a message quotes, and in every shard's reason."""
    assert str(ConfigError("s3://k:canary@b/x: refused")) == "s3://***@b/x: refused"
    failed = ShardsFailedError("tokens", {"a-00000": "HF_TOKEN=canary"}, "run again")
    assert "canary" not in f"{failed} {failed.failures}"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:canary@bucket/a",
        "s3://canary@bucket",
        "https://h/a.jsonl?b=1&X-Amz-Signature=canary",
        "https://h/a?sig=canary",
    ],
)
def test_a_uri_with_a_password_or_a_signature_is_refused_without_repeating_it(uri):
    """Records hold URIs, and logs show them."""
    problem = secret_in(uri)
    assert "carries a password or a signature" in problem
    assert "canary" not in problem


@pytest.mark.parametrize("uri", ["/a@b/c:d@e", "s3://bucket/a@b?c", "https://h/a.jsonl?version=1", "a:b@c"])
def test_other_uris_pass(uri):
    """An @ in a path is no password."""
    assert secret_in(uri) is None
