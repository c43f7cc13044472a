"""Secrets, recognised by their shape, so that no message repeats one.

In: a text, such as the message of a library's error; a URI.
Out: the text with ``***`` in the place of each secret; why the URI may not be used.
Promise: names stay, so that a reader sees which secret it was.
Never: looks up what the secrets of this machine are.
"""

import re

MASK = "***"
_SECRETS = [
    # NAME_TOKEN=..., AWS_SECRET_ACCESS_KEY: ..., aws_session_token = ...
    (r"((?:[A-Z0-9_]*_)?(?:TOKEN|KEY|SECRET|PASSWORD|AUTH_STRING)|aws_[a-z_]+)(\s*[=:]\s*)[^\s,;]+", r"\1\2" + MASK),
    # Authorization: Bearer ...
    (r"(?i)\b((?:proxy-)?authorization|x-amz-security-token)(['\"]?\s*[:=]\s*)[^\n]+", r"\1\2" + MASK),
    # ?X-Amz-Signature=...
    (r"(?i)\b(x-amz-(?:signature|credential|security-token)|signature|sig)=[^&\s'\"]+", r"\1=" + MASK),
    # scheme://user:password@host
    (r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s'\"?#]*@", r"\1" + MASK + "@"),
    # Access key ids of AWS, tokens of the Hugging Face hub
    (r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\bhf_[A-Za-z0-9]{8,}", MASK),
]
_IN_URI = re.compile(r"(?i)^[a-z][a-z0-9+.-]*://(?:[^/?#]*@|.*[?&](?:x-amz-[a-z-]+|signature|sig)=)")


def redacted(text: str) -> str:
    """The text without what looks like a secret."""
    for pattern, replacement in _SECRETS:
        text = re.sub(pattern, replacement, text)
    return text


def secret_in_variable(name: str, value: str) -> bool:
    """Whether a variable of the environment is a secret by its name or by its value."""
    written = f"{name}={value}"
    return redacted(written) != written


def secret_in(uri: str) -> str | None:
    """What is wrong with a URI that holds a user and password, or the signature of a presigned request."""
    if not _IN_URI.match(uri):
        return None
    return (
        f"{redacted(uri)} carries a password or a signature, which would end in records and logs; leave it out and set "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or what the file system's library reads by itself"
    )
