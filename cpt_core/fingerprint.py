"""One value, one fingerprint: canonical JSON and its sha256; and JSON files that notice their own damage.

In: plain values (dict, list, tuple, str, int, finite float, bool, None).
Out: canonical JSON bytes; a lower-case hexadecimal sha256 of 64 characters.
Promise: equal values give equal bytes on every machine, Python and locale.
Never: guesses a form for a value that has no stable one; that raises ``TypeError``.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

_SEAL = b',\n "record_sha256": "'
_END = b'"\n}'

_PLAIN = frozenset({str, int, bool, type(None)})


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no white space.

    Raises:
        TypeError: for a value without one stable form (a set, bytes, NaN, a non-string key, an object).
    """
    if not _is_plain(value):
        _require_stable(value, "$")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def fingerprint(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``, in hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sealed_json(values: dict[str, Any], indent: int | None = 1) -> bytes:
    """A JSON object whose last field, ``record_sha256``, is the sha256 of all bytes before its own value.

    Args:
        values: the other fields, at least one.
        indent: for a reader's eyes; None is ten times faster.
    """
    head = json.dumps(values, indent=indent).encode().removesuffix(b"}").removesuffix(b"\n") + _SEAL
    return head + hashlib.sha256(head).hexdigest().encode() + _END


def unsealed_json(content: bytes) -> dict[str, Any]:
    """The inverse of ``sealed_json``.

    Raises:
        ValueError: when any byte is another than was written.
    """
    head, seal, tail = content.rpartition(_SEAL)
    if not seal or tail != hashlib.sha256(head + seal).hexdigest().encode() + _END:
        raise ValueError("the content does not match its own record_sha256")
    return dict(json.loads(head + b"}"))


def differing_fields(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Leaves in which two JSON values differ, as (dotted path, old, new), ordered by path."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differing_fields(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, old, new


def _is_plain(value: Any) -> bool:
    """Whether every part is of the commonest stable types: keys are made by the million."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is dict:
        return all(type(key) is str and (type(item) in _PLAIN or _is_plain(item)) for key, item in value.items())
    return kind in (list, tuple) and all(type(item) in _PLAIN or _is_plain(item) for item in value)


def _require_stable(value: Any, path: str) -> None:
    if value is None or isinstance(value, bool | int | str):
        return
    if isinstance(value, float) and math.isfinite(value):
        return
    if isinstance(value, list | tuple):
        for position, item in enumerate(value):
            _require_stable(item, f"{path}[{position}]")
        return
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        for key, item in value.items():
            _require_stable(item, f"{path}.{key}")
        return
    raise TypeError(
        f"{path} is {value!r} ({type(value).__name__}), which has no stable JSON form; "
        "use a dict with string keys, a list, a string, an integer, a finite float, a boolean or None"
    )
