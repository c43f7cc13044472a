"""Links and folders on the way to the files: followed, refused, or an error, and never passed over."""

import errno
import os
from pathlib import Path

import pytest

from cpt_core.config import DiscoveryConfig
from cpt_core.discovery import discover_sources
from cpt_core.errors import InputError
from cpt_core.storage import Store
from tests.cpt_core.discovery.test_discovery import sources, write

URIS_OF_A_FOLDER = ("corpus", "corpus/*.jsonl", "corpus/**/*.jsonl")


def found(config: DiscoveryConfig, folder: Path, store: Store) -> list[str]:
    """Paths of all shards within a folder."""
    return [str(Path(shard.uri).relative_to(folder)) for shard in discover_sources(config, 50, store=store).shards]


def test_a_link_to_a_file_is_that_file(tmp_path, store):
    """Inside the folder that was named it is read like any other; a file that is named itself may lie anywhere."""
    write(tmp_path / "corpus/a.jsonl")
    (tmp_path / "corpus/b.jsonl").symlink_to("a.jsonl")
    for uri in URIS_OF_A_FOLDER:
        assert found(sources(str(tmp_path / uri)), tmp_path, store) == ["corpus/a.jsonl", "corpus/b.jsonl"]
    (tmp_path / "elsewhere.jsonl").symlink_to("corpus/a.jsonl")
    assert found(sources(str(tmp_path / "elsewhere.jsonl")), tmp_path, store) == ["elsewhere.jsonl"]


@pytest.mark.parametrize("uri", URIS_OF_A_FOLDER)
def test_a_link_out_of_its_folder_is_refused_unless_it_is_to_be_followed(tmp_path, store, uri):
    """Download caches are folders of links; elsewhere such a link may show what nobody meant to train on."""
    write(tmp_path / "elsewhere/a")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/a.jsonl").symlink_to(tmp_path / "elsewhere/a")
    with pytest.raises(InputError, match=r"a\.jsonl: leads through a symbolic link to .*elsewhere/a, outside of"):
        discover_sources(sources(str(tmp_path / uri)), 50, store=store)
    assert found(sources(str(tmp_path / uri), follow_links=True), tmp_path, store) == ["corpus/a.jsonl"]


@pytest.mark.parametrize("uri", ["corpus", "corpus/**/*.jsonl"])
def test_links_that_make_a_loop_end(tmp_path, store, uri):
    """A link to the folder above is refused by name; followed, every file is found once."""
    write(tmp_path / "corpus/sub/a.jsonl")
    (tmp_path / "corpus/sub/up").symlink_to("..")
    (tmp_path / "corpus/sub/twin").symlink_to("../sub")
    with pytest.raises(InputError, match=r"sub/(up|twin): is a symbolic link to a folder, which is not followed"):
        discover_sources(sources(str(tmp_path / uri)), 50, store=store)
    assert found(sources(str(tmp_path / uri), follow_links=True), tmp_path, store) == ["corpus/sub/a.jsonl"]


def test_a_glob_through_a_linked_folder_is_refused(tmp_path, store):
    """The link stands in the middle of the path."""
    write(tmp_path / "elsewhere/a.jsonl")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="leads through a symbolic link"):
        discover_sources(sources(str(tmp_path / "corpus/*/a.jsonl")), 50, store=store)


@pytest.mark.parametrize("uri", ["corpus", "corpus/*/a.jsonl", "corpus/**/*.jsonl"])
def test_a_folder_that_cannot_be_looked_into_is_an_error(tmp_path, store, monkeypatch, uri):
    """Passing over it would lose text."""
    write(tmp_path / "corpus/open/a.jsonl")
    write(tmp_path / "corpus/closed/a.jsonl")
    scandir, listdir = os.scandir, os.listdir

    def refusing(real):
        def look(path="."):
            if str(path).endswith("closed"):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path)

        return look

    monkeypatch.setattr("os.scandir", refusing(scandir))
    monkeypatch.setattr("os.listdir", refusing(listdir))
    with pytest.raises(InputError, match=r"cannot be listed: .*Permission denied"):
        discover_sources(sources(str(tmp_path / uri)), 50, store=store)


def test_a_link_to_nothing_is_an_error(tmp_path, store):
    """Skipping it would lose text."""
    write(tmp_path / "corpus/a.jsonl")
    (tmp_path / "corpus/b.jsonl").symlink_to("nothing")
    with pytest.raises(InputError, match="is a link to a file that does not exist"):
        discover_sources(sources(str(tmp_path / "corpus")), 50, store=store)


def test_a_folder_that_is_called_like_a_file_is_a_folder(tmp_path, store):
    """It is looked into, not opened."""
    write(tmp_path / "corpus/x.jsonl/a.jsonl")
    for uri in ("corpus", "corpus/**/*.jsonl"):
        assert found(sources(str(tmp_path / uri)), tmp_path, store) == ["corpus/x.jsonl/a.jsonl"]
