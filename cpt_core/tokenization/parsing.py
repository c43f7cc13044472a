"""One line -> its text, or the reason why it has none.

In: the bytes of one line; the name of the text field.
Out: a string, or a ``Fault`` with a reason code and a detail that never quotes the document.
Promise: strict RFC 8259; each line is judged alone.
Never: repairs a line, converts a value to a string, or raises for what a line contains.

What the standard rejects is rejected: NaN and Infinity, raw control characters, lone surrogates, bytes that are not
UTF-8, a second value on the line. Where it leaves a choice: a name that the outermost object holds twice is a fault
(nested objects are not looked into); nesting deeper than 1,024 is a fault; numbers may have any size, since only the
text is used; NUL is text like any other character.

Reasons: ``invalid_utf8``, ``json_syntax``, ``lone_surrogate``, ``too_deep``, ``not_object``, ``duplicate_key``,
``missing_field``, ``non_string_text``, ``empty_text``; and from elsewhere in this room ``line_too_long``,
``unbroken_text``, ``zero_tokens``, ``tokenizer_panic``. Blank lines are no documents: they are counted, not kept.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import orjson

from cpt_core.printable import printable

JSON_WHITE_SPACE = b" \t\r\n"
MAX_KEYS_SHOWN = 10
MAX_KEY_CHARACTERS_SHOWN = 40
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_STRUCTURE = re.compile(rb"(?P<string>" + _STRING + rb")|(?P<opening>[{\[])|(?P<closing>[}\]])|(?P<colon>:)", re.DOTALL)
_STRING_OR_NUMBER = re.compile(
    _STRING + rb"|(?<![^ \t\r\n:,\[])-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?(?![^ \t\r\n,\]}])",
    re.DOTALL,
)


@dataclass(frozen=True)
class Fault:
    """Why a line is no document."""

    reason: str
    detail: str


def parse_line(line: bytes, text_field: str) -> str | Fault:
    """The text of one line, without its line end."""
    try:
        value = value_of(line)
    except orjson.JSONDecodeError as error:
        return _syntax_fault(line, error)
    if not isinstance(value, dict):
        return Fault("not_object", f"the value is {_json_type(value)}, expected an object")
    if not _holds_every_string_of(value, line) and (repeated := _repeated_key(line)) is not None:
        return Fault("duplicate_key", f"the key {_shown(repeated)} stands more than once")
    if text_field not in value:
        keys = ", ".join(_shown(key) for key in sorted(value)[:MAX_KEYS_SHOWN]) or "none"
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


def value_of(line: bytes) -> Any:
    """The value of a line. The parser refuses numbers beyond a double, which the standard allows: they become 0.

    Raises:
        JSONDecodeError: when the line is no JSON.
    """
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if "infinity" not in error.msg:
            raise
        return orjson.loads(_STRING_OR_NUMBER.sub(lambda match: _short_number(match.group()), line))


def _short_number(string_or_number: bytes) -> bytes:
    return string_or_number if string_or_number.startswith(b'"') else b"0"


def _syntax_fault(line: bytes, error: orjson.JSONDecodeError) -> Fault:
    try:
        line.decode()
    except UnicodeDecodeError as decode_error:
        return Fault("invalid_utf8", f"byte {decode_error.start} of the line is not UTF-8")
    if "surrogate" in error.msg:
        return Fault("lone_surrogate", f"{error.msg} at character {error.pos}")
    if "depth" in error.msg or "recursion" in error.msg:
        return Fault("too_deep", f"{error.msg} at character {error.pos}")
    return Fault("json_syntax", f"{error.msg} at character {error.pos}")


def _holds_every_string_of(value: dict[str, Any], line: bytes) -> bool:
    """Whether no string of a valid line was dropped for a later one of the same key: told by counting quotes.

    Each string has two quotes around it and one for each quote in it, unless that is written as an escape of its
    code; a line with such an escape is not told here. Counting is several times faster than parsing again.
    """
    return line.count(b'"') == _quotes(value) and line.find(b"u0022") < 0


def _quotes(value: Any) -> int:
    """How many quotes the strings of a value need; nesting may be deeper than Python's own stack."""
    quotes = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            quotes += 2 + item.count('"')
        elif isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, list):
            waiting += item
    return quotes


def _repeated_key(line: bytes) -> str | None:
    """The first key that the outermost object of a valid line holds twice."""
    depth = 0
    last_string = b""
    keys: Counter[str] = Counter()
    for match in _STRUCTURE.finditer(line):
        match match.lastgroup:
            case "string":
                last_string = match.group()
            case "opening":
                depth += 1
            case "closing":
                depth -= 1
            case "colon" if depth == 1:
                keys[orjson.loads(last_string)] += 1
    return next((key for key, count in keys.items() if count > 1), None)


def _shown(key: str) -> str:
    """A key in a message: it may come from a line that is all wrong, so it is escaped and cut."""
    short = key if len(key) <= MAX_KEY_CHARACTERS_SHOWN else f"{key[:MAX_KEY_CHARACTERS_SHOWN]}…"
    return printable(short)


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
