"""One value, one fingerprint: canonical JSON and its sha256.

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

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no white space.

    Raises:
        TypeError: for a value without one stable form (a set, bytes, NaN, a non-string key, an object).
    """
    _require_stable(value, "$")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def fingerprint(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``, in hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def differing_fields(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Leaves in which two JSON values differ, as (dotted path, old, new), ordered by path."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differing_fields(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, old, new


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
