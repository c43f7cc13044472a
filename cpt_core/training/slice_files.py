"""Files of slices: the training state of all ranks as safetensors, one file a rank.

In: named slices of flattened fp32 parameters; a folder of such files.
Out: ``rank-00000.safetensors`` with tensors such as ``exp_avg/model.norm.weight@4096``; any stretch of any parameter.
Promise: what one number of ranks wrote, any other number reads; a stretch that no file holds is an error.
Never: writes more than one slice, or reads more than a block of one, into memory at a time; unpickles.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from cpt_core.errors import JobFailedError

BUFFERS_NAME = "buffers.safetensors"
"""Beside the slices: what a model keeps besides parameters; most keep nothing."""
MASTER = "master"
"""The fp32 value of a parameter."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps beside it."""
KINDS = (MASTER, *MOMENTS)
_ELEMENT_BYTES = 4
_BLOCK_ELEMENTS = 1 << 18
"""Read at once: however large a slice is, memory is not."""


@dataclass(frozen=True)
class SliceName:
    """What a tensor in a file is."""

    kind: str
    parameter: str
    start: int
    """Position of its first element in the flattened parameter."""

    def __str__(self) -> str:
        return f"{self.kind}/{self.parameter}@{self.start}"


@dataclass(frozen=True)
class _Stored:
    path: Path
    start: int
    num_elements: int
    position: int
    """Of its first byte in the file."""


def file_name(rank: int) -> str:
    """Name of a rank's file."""
    return f"rank-{rank:05}.safetensors"


def write_slices(path: Path, sizes: dict[SliceName, int], tensor_of: Callable[[SliceName], torch.Tensor]) -> str:
    """Write fp32 slices one after the other.

    Args:
        path: of the new file.
        sizes: elements of each slice.
        tensor_of: gives a slice on the CPU when its turn comes.

    Returns:
        The sha256 of the bytes that were written.
    """
    digest = hashlib.sha256()
    with path.open("xb", buffering=0) as stream:
        for part in _parts(sizes, tensor_of):
            digest.update(part)
            rest = memoryview(part)
            while rest:
                rest = rest[stream.write(rest) :]
    return digest.hexdigest()


def write_buffers(path: Path, buffers: dict[str, torch.Tensor]) -> None:
    """Write small tensors; what fails is an OSError, which safetensors' own writing makes an error of its own of."""
    path.write_bytes(save(buffers))


class SliceFolder:
    """Reads any stretch of any parameter out of the files of all ranks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stored: dict[tuple[str, str], list[_Stored]] = {}
        for path in sorted(folder.glob("rank-*.safetensors")):
            for name, stored in _heading(path):
                self._stored.setdefault((name.kind, name.parameter), []).append(stored)
        for found in self._stored.values():
            found.sort(key=lambda stored: stored.start)

    def read(self, kind: str, parameter: str, start: int, num_elements: int) -> Iterator[torch.Tensor]:
        """The elements from ``start`` on, in their order, in blocks of one file.

        Raises:
            JobFailedError: when some of them are in no file.
        """
        position, end = start, start + num_elements
        for stored in self._stored.get((kind, parameter), []):
            if stored.start <= position < min(end, stored.start + stored.num_elements):
                last = min(end, stored.start + stored.num_elements)
                while position < last:
                    wanted = min(_BLOCK_ELEMENTS, last - position)
                    yield _read(stored, position - stored.start, wanted)
                    position += wanted
        if position < end:
            raise JobFailedError(f"{self._folder}: no file holds elements {position} to {end} of {kind}/{parameter}")


def _parts(sizes: dict[SliceName, int], tensor_of: Callable[[SliceName], torch.Tensor]) -> Iterator[bytes | memoryview]:
    entries, position = {}, 0
    for name, num_elements in sizes.items():
        end = position + num_elements * _ELEMENT_BYTES
        entries[str(name)] = {"dtype": "F32", "shape": [num_elements], "data_offsets": [position, end]}
        position = end
    heading = json.dumps(entries).encode()
    heading += b" " * (-len(heading) % 8)
    yield len(heading).to_bytes(8, "little") + heading
    for name in sizes:
        yield tensor_of(name).contiguous().numpy().data.cast("B")


def _heading(path: Path) -> Iterable[tuple[SliceName, _Stored]]:
    with path.open("rb") as stream:
        size_bytes = int.from_bytes(stream.read(8), "little")
        entries = json.loads(stream.read(size_bytes))
    for key, entry in entries.items():
        kind, _, place = key.partition("/")
        parameter, _, start = place.rpartition("@")
        first, end = entry["data_offsets"]
        stored = _Stored(path, int(start), (end - first) // _ELEMENT_BYTES, 8 + size_bytes + first)
        yield SliceName(kind, parameter, stored.start), stored


def _read(stored: _Stored, offset: int, num_elements: int) -> torch.Tensor:
    tensor = torch.empty(num_elements, dtype=torch.float32)
    with stored.path.open("rb", buffering=0) as stream:
        stream.seek(stored.position + offset * _ELEMENT_BYTES)
        rest = tensor.numpy().data.cast("B")
        while rest:
            num_bytes = stream.readinto(rest)
            if not num_bytes:
                raise JobFailedError(f"{stored.path}: ends before its own heading says")
            rest = rest[num_bytes:]
    return tensor
