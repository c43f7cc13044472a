"""One line -> its text, or the reason why it has none.

In: the bytes of one line; the name of the text field.
Out: a string, or a ``Fault`` with a reason code and a detail that never quotes the document.
Promise: strict RFC 8259; each line is judged alone.
Never: repairs a line, converts a value to a string, or raises for what a line contains.

Reasons: ``invalid_utf8``, ``json_syntax``, ``lone_surrogate``, ``too_deep``, ``not_object``, ``duplicate_key``,
``missing_field``, ``non_string_text``, ``empty_text``. Blank lines are no documents: they are counted, not kept.
"""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True)
class Fault:
    """Why a line is no document."""

    reason: str
    detail: str


def parse_line(line: bytes, text_field: str) -> str | Fault:
    """The text of one line, without its line end."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return _syntax_fault(line, error)
    if not isinstance(value, dict):
        return Fault("not_object", f"the value is {_json_type(value)}, expected an object")
    if line.count(b":") > len(value) and (repeated := _repeated_key(line)):
        return Fault("duplicate_key", f"the key {repeated!r} stands more than once")
    if text_field not in value:
        keys = ", ".join(sorted(value)[:10]) or "none"
        return Fault("missing_field", f"no field {text_field!r}; the keys are: {keys}")
    return _text_or_fault(value[text_field], text_field)


def text_of_bytes(value: bytes | None, text_field: str) -> str | Fault:
    """The text of one value of a parquet column."""
    try:
        return _text_or_fault(value.decode() if value is not None else None, text_field)
    except UnicodeDecodeError as error:
        return Fault("invalid_utf8", f"byte {error.start} of the text is not UTF-8")


def _text_or_fault(value: Any, text_field: str) -> str | Fault:
    if not isinstance(value, str):
        return Fault("non_string_text", f"{text_field!r} is {_json_type(value)}, expected a string")
    if not value:
        return Fault("empty_text", f"{text_field!r} is the empty string")
    return value


def _syntax_fault(line: bytes, error: orjson.JSONDecodeError) -> Fault:
    try:
        line.decode()
    except UnicodeDecodeError as decode_error:
        return Fault("invalid_utf8", f"byte {decode_error.start} of the line is not UTF-8")
    if "surrogate" in error.msg:
        return Fault("lone_surrogate", f"{error.msg} at character {error.pos}")
    if "depth" in error.msg:
        return Fault("too_deep", f"{error.msg} at character {error.pos}")
    return Fault("json_syntax", f"{error.msg} at character {error.pos}")


def _repeated_key(line: bytes) -> str | None:
    """The first key that the outermost object holds twice; the parser keeps the last of them silently."""
    repeated: str | None = None

    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        repeated = next((key for key, count in Counter(key for key, _ in pairs).items() if count > 1), None)
        return {}

    try:
        json.loads(line, object_pairs_hook=check)  # the outermost object is the last to be built
    except (ValueError, RecursionError):
        return None  # what orjson accepts and json refuses (a very long integer, say) cannot be checked
    return repeated


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
