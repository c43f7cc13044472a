"""Rejected lines that a user has repaired in a file of their own: the input files stay as they are.

In: the repairs file, JSON Lines of ``file, line, byte_offset, sha256, replacement``; the manifest.
Out: the manifest, its shards carrying their repairs; for a rejected line, the text that takes its place.
Promise: a repair reaches exactly the line whose place and bytes it names; shards without one keep their key; a
replacement is judged like any line, and one that is rejected itself leaves the line in quarantine, saying so.
Never: puts a path into a key, or changes a line that is accepted as it is.
"""

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

from cpt_core.config import TokenizationConfig
from cpt_core.errors import ConfigError, CptError
from cpt_core.fingerprint import fingerprint
from cpt_core.manifest import Manifest, Repair, Shard
from cpt_core.storage import open_input
from cpt_core.tokenization.parsing import Fault, parse_line

_TYPES: dict[str, type | tuple[type, ...]] = {
    "file": str,
    "line": int,
    "byte_offset": int,
    "sha256": str,
    "replacement": (str, type(None)),
}
_FOR_THE_READER = {"reason", "detail", "raw"}
_REMEDY = "`cpt quarantine show CONFIG --write FILE` writes complete entries"


def place_of(line: int, byte_offset: int) -> int:
    """Where a line is, in one number: its byte offset, or its row number negated where there are no bytes.

    Unlike a line number it is the same in both modes of ``fingerprint_inputs`` and for every way to cut the file.
    """
    return byte_offset if byte_offset >= 0 else -line


def with_repairs(manifest: Manifest, config: TokenizationConfig) -> Manifest:
    """The manifest with each shard's repairs in it; the manifest itself when there is no repairs file.

    Raises:
        ConfigError: naming file and line of an entry that is malformed, contradicts another one, or belongs to no
            input file.
    """
    if config.repairs is None:
        return manifest
    entries = _read(config.repairs)
    shards_of_file = defaultdict(list)
    for position, shard in enumerate(manifest.shards):
        shards_of_file[shard.uri].append(position)
    found: dict[int, dict[tuple[int, str], Repair]] = defaultdict(dict)
    for entry in entries:
        for position in _positions(entry, manifest, shards_of_file):
            _add(found[position], entry)
    shards = [
        replace(shard, repairs=tuple(repair for _, repair in sorted(found[position].items())))
        if position in found
        else shard
        for position, shard in enumerate(manifest.shards)
    ]
    return replace(manifest, shards=tuple(shards))


def repairs_key_part(shard: Shard) -> dict[str, str]:
    """The field of a shard's key that its repairs are; no field when it has none."""
    if not shard.repairs:
        return {}
    parts = [[repair.place, repair.sha256, _sha256(_bytes(repair.replacement))] for repair in shard.repairs]
    return {"repairs": fingerprint(parts)}


class LineRepairs:
    """The repairs of one shard, applied to its rejected lines one by one."""

    def __init__(self, shard: Shard) -> None:
        self._text_field = shard.text_field
        self._by_place: dict[int, dict[str, str]] = defaultdict(dict)
        for repair in shard.repairs:
            self._by_place[repair.place][repair.sha256] = repair.replacement

    def repair(self, line: int, byte_offset: int, sha256: str, fault: Fault) -> str | Fault:
        """The text that takes the place of a rejected line, or why it stays rejected.

        Args:
            line: its number.
            byte_offset: where it begins in the uncompressed file.
            sha256: of the whole line without its line end.
            fault: why it was rejected.
        """
        replacements = self._by_place.get(place_of(line, byte_offset))
        if replacements is None:
            return fault
        replacement = replacements.get(sha256)
        if replacement is None:
            return Fault(
                fault.reason, f"{fault.detail}; not repaired: the repair is of other bytes, its sha256 differs"
            )
        value = parse_line(_bytes(replacement), self._text_field)
        if isinstance(value, Fault):
            return Fault(
                fault.reason, f"{fault.detail}; not repaired: the replacement is {value.reason}, {value.detail}"
            )
        return value


@dataclass(frozen=True)
class _Entry:
    """One repaired line of the repairs file, and where it stands there."""

    where: str
    file: str
    repair: Repair


def _read(uri: str) -> list[_Entry]:
    try:
        with open_input(uri) as stream:
            lines = stream.read().split(b"\n")
    except CptError as error:
        raise ConfigError(f"tokenization.repairs: {error}; expected a file of repaired lines. {_REMEDY}") from None
    parsed = [_entry(line, f"{uri}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    return [entry for entry in parsed if entry is not None]


def _entry(line: bytes, where: str) -> _Entry | None:
    """The entry of one line; None while its replacement is null."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: is no JSON: {' '.join(str(error).split())}. {_REMEDY}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: is no JSON object. {_REMEDY}")
    _require_fields(values, where)
    if values["replacement"] is None:
        return None
    place = place_of(values["line"], values["byte_offset"])
    return _Entry(where, values["file"], Repair(place, values["sha256"], values["replacement"]))


def _require_fields(values: dict[str, Any], where: str) -> None:
    for name, expected in _TYPES.items():
        if name not in values:
            raise ConfigError(f"{where}: {name} is missing. {_REMEDY}")
        if not isinstance(values[name], expected) or isinstance(values[name], bool):
            wanted = "a string or null" if name == "replacement" else "a string" if expected is str else "an integer"
            raise ConfigError(f"{where}: {name} is {json.dumps(values[name])[:40]}, expected {wanted}. {_REMEDY}")
    unknown = sorted(values.keys() - _TYPES.keys() - _FOR_THE_READER)
    if unknown:
        valid = ", ".join([*_TYPES, *sorted(_FOR_THE_READER)])
        raise ConfigError(f"{where}: {unknown[0]!r} is not a key; valid keys are {valid}")


def _positions(entry: _Entry, manifest: Manifest, shards_of_file: dict[str, list[int]]) -> list[int]:
    """Positions of the shards that hold the line: one, unless several sources read the file."""
    candidates = shards_of_file.get(entry.file)
    if candidates is None:
        raise ConfigError(
            f"{entry.where}: file {entry.file!r} is no input file of this configuration; expected one as "
            "`cpt quarantine list CONFIG` names it"
        )
    positions = [position for position in candidates if _holds(manifest.shards[position], entry.repair.place)]
    if not positions:
        raise ConfigError(f"{entry.where}: line and byte_offset lie outside {entry.file}. {_REMEDY}")
    return positions


def _holds(shard: Shard, place: int) -> bool:
    if shard.format != "jsonl":
        return True  # such a file is one shard, and its offsets count uncompressed bytes
    return shard.first_byte <= place < shard.first_byte + shard.size_bytes


def _add(repairs: dict[tuple[int, str], Repair], entry: _Entry) -> None:
    repair = entry.repair
    first = repairs.setdefault((repair.place, repair.sha256), repair)
    if first != repair:
        raise ConfigError(f"{entry.where}: this line of {entry.file} has another replacement already; keep one of them")


def _bytes(replacement: str) -> bytes:
    return replacement.encode("utf-8", "surrogatepass")  # so that a lone surrogate is rejected by the parser


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
