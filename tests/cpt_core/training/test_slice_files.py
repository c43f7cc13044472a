"""Slices of parameters in files: what some ranks wrote, other ranks read."""

import itertools
import resource
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from cpt_core.errors import JobFailedError
from cpt_core.training.slice_files import SliceFolder, SliceName, file_name, write_buffers, write_slices

SIZES = {"model.embed.weight": 37, "model.norm.weight": 5}
CUTS = {name: st.sets(st.integers(1, size - 1)).map(sorted) for name, size in SIZES.items()}


def _write(folder: Path, cuts: dict[str, list[int]], num_ranks: int) -> None:
    """Every parameter, cut at these places, dealt out to so many ranks."""
    slices = [
        (SliceName("master", name, start), end - start)
        for name, places in cuts.items()
        for start, end in itertools.pairwise([0, *places, SIZES[name]])
    ]
    for rank in range(num_ranks):
        sizes = dict(slices[rank::num_ranks])
        path = folder / file_name(rank)
        path.unlink(missing_ok=True)
        write_slices(path, sizes, lambda name, sizes=sizes: torch.arange(name.start, name.start + sizes[name]).float())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.fixed_dictionaries(CUTS), read=st.fixed_dictionaries(CUTS), num_ranks=st.integers(1, 4))
def test_any_stretch_is_read_from_any_cut(tmp_path, written, read, num_ranks):
    """However parameters were cut up, every stretch of them comes back whole and in order."""
    _write(tmp_path, written, num_ranks)
    stored = SliceFolder(tmp_path)
    for name, places in read.items():
        for start, end in itertools.pairwise([0, *places, SIZES[name]]):
            found = torch.cat(list(stored.read("master", name, start, end - start)))
            assert found.tolist() == list(range(start, end))
    for path in tmp_path.iterdir():
        path.unlink()


def test_the_files_are_safetensors(tmp_path):
    """Other programs read them, by names that say what is in them."""
    _write(tmp_path, {"model.embed.weight": [30], "model.norm.weight": []}, num_ranks=2)
    tensors = [load_file(tmp_path / file_name(rank)) for rank in range(2)]
    assert [sorted(found) for found in tensors] == [
        ["master/model.embed.weight@0", "master/model.norm.weight@0"],
        ["master/model.embed.weight@30"],
    ]
    assert tensors[1]["master/model.embed.weight@30"].tolist() == [30, 31, 32, 33, 34, 35, 36]


def test_a_stretch_that_no_file_holds_is_an_error(tmp_path):
    """Never zeros in its place."""
    _write(tmp_path, {"model.embed.weight": [30], "model.norm.weight": []}, num_ranks=2)
    (tmp_path / file_name(1)).unlink()
    with pytest.raises(JobFailedError, match=r"no file holds elements 30 to 37 of master/model\.embed\.weight"):
        list(SliceFolder(tmp_path).read("master", "model.embed.weight", 20, 17))


def test_buffers_that_find_no_room_are_an_error_of_the_system(tmp_path: Path) -> None:
    """As a full disk is for slices: such a checkpoint is told and passed over; safetensors has an error of its own."""
    buffers = {"mean": torch.arange(1000.0)}
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_buffers(tmp_path / "full", buffers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    write_buffers(tmp_path / "buffers.safetensors", buffers)
    assert load_file(tmp_path / "buffers.safetensors")["mean"].equal(buffers["mean"])
