"""The kinds of values that the sections of a configuration are made of.

In: a value as it was given.
Out: the value, or what is wrong with it.
Promise: a secret, a revision that can move and a refused setting are told before anything keeps them.
Never: knows which key a value belongs to.
"""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, ByteSize, Field, WithJsonSchema

from cpt_core.deepspeed_settings import problems_in
from cpt_core.redaction import secret_in


def _without_secret(uri: str) -> str:
    if problem := secret_in(uri):
        raise ValueError(problem)
    return uri


def _a_commit(revision: str) -> str:
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise ValueError(
            f"{revision!r} may mean another content tomorrow, as branches and tags do; expected a commit of the hub "
            "repository, 40 hexadecimal digits (the hub's page lists them under `History`)"
        )
    return revision


def _as_allowed(settings: dict[str, Any]) -> dict[str, Any]:
    if problems := problems_in(settings):
        raise ValueError("; ".join(problems))
    return settings


Uri = Annotated[str, AfterValidator(_without_secret)]
Commit = Annotated[str, AfterValidator(_a_commit)]
Bytes = Annotated[ByteSize, WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}]})]
DeepSpeedSettings = Annotated[dict[str, Any], AfterValidator(_as_allowed)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
