"""Sealed checkpoints: only whole ones are found, and old ones go last."""

import errno
import os
from pathlib import Path

import pytest

from cpt_core.errors import JobInterruptedError
from cpt_core.training import sealing
from cpt_core.training.sealing import SealedCheckpoint, drop_older, drop_unsealed, newest_whole, set_newer_aside
from tests.cpt_core.training.checkpoints import KEY, manifest, seal_files


def _seal(checkpoints: Path, steps: int, key: str = KEY) -> SealedCheckpoint:
    return seal_files(checkpoints, manifest(steps, key), {"weights": b"w" * steps})


def _names(checkpoints: Path) -> list[str]:
    return sorted(path.name for path in checkpoints.iterdir())


def test_newest_whole(tmp_path: Path) -> None:
    """The newest checkpoint of the key is found; one of another key is not."""
    _seal(tmp_path, 5)
    newest = _seal(tmp_path, 10)
    _seal(tmp_path, 15, key="other")
    assert newest_whole(tmp_path, KEY) == newest
    assert newest.manifest == manifest(10)
    assert newest_whole(tmp_path, "unknown") is None


def test_damage_is_passed_over_and_told_in_one_line_each(tmp_path: Path) -> None:
    """A changed byte, a cut, missing or added file, a changed or lost manifest: the one before is taken."""
    good = _seal(tmp_path, 5)
    (_seal(tmp_path, 10).folder / "weights").write_bytes(b"x" * 10)
    (_seal(tmp_path, 15).folder / "weights").write_bytes(b"w")
    (_seal(tmp_path, 20).folder / "weights").unlink()
    (_seal(tmp_path, 25).folder / "more").touch()
    (_seal(tmp_path, 30).folder / "manifest.json").unlink()
    record = _seal(tmp_path, 35).folder / "manifest.json"
    record.write_bytes(record.read_bytes().replace(b'"tokens_seen": 350', b'"tokens_seen": 351'))
    said: list[str] = []
    assert newest_whole(tmp_path, KEY, said.append) == good
    ending = "is damaged and is passed over for the one before it:"
    assert [line.removeprefix(f"{tmp_path}/") for line in said] == [
        f"step-0000035 {ending} manifest.json is missing or damaged",
        f"step-0000030 {ending} manifest.json is missing or damaged",
        f"step-0000025 {ending} more has 0 bytes, expected no such file",
        f"step-0000020 {ending} weights has no bytes, expected 20",
        f"step-0000015 {ending} weights has 1 bytes, expected 15",
        f"step-0000010 {ending} the bytes of weights are not those of its sha256",
    ]


def test_every_changed_byte_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    """Of its file and of its manifest alike."""
    folder = _seal(tmp_path, 5).folder
    for path in (folder / "weights", folder / "manifest.json"):
        content = path.read_bytes()
        for position in range(len(content)):
            path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            assert newest_whole(tmp_path, KEY) is None, (path.name, position)
        path.write_bytes(content)
    assert newest_whole(tmp_path, KEY) is not None


def test_a_damaged_one_is_set_aside_and_goes_after_the_next_seal(tmp_path: Path) -> None:
    """It does not count among those that are kept."""
    for steps in (5, 10, 15):
        _seal(tmp_path, steps)
    (tmp_path / "step-0000015/weights").write_bytes(b"")
    newest = newest_whole(tmp_path, KEY)
    assert newest is not None
    set_newer_aside(tmp_path, newest.manifest.steps)
    assert _names(tmp_path) == [".damaged-step-0000015", "step-0000005", "step-0000010"]
    drop_older(tmp_path, _seal(tmp_path, 20), keep_last=2)
    assert _names(tmp_path) == ["step-0000010", "step-0000020"]


def test_unsealed_is_never_found(tmp_path: Path) -> None:
    """What an attempt left unfinished is not a checkpoint, and is removed at the next start."""
    (tmp_path / sealing.unsealed_name(5, "a1")).mkdir()
    assert newest_whole(tmp_path, KEY) is None
    drop_unsealed(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_older_ones_go_after_the_newest_verified(tmp_path: Path) -> None:
    """Nothing goes while the newest is damaged; an incomplete one does not count; milestones stay."""
    sealed = [_seal(tmp_path, steps) for steps in (5, 10, 15, 20, 25)]
    content = (sealed[-1].folder / "weights").read_bytes()
    (sealed[-1].folder / "weights").write_bytes(b"")
    drop_older(tmp_path, sealed[-1], keep_last=2)
    assert len(_names(tmp_path)) == 5
    (sealed[-1].folder / "weights").write_bytes(content)
    (sealed[-2].folder / "weights").write_bytes(b"")
    drop_older(tmp_path, sealed[-1], keep_last=2, keep_every=10)
    assert _names(tmp_path) == ["step-0000010", "step-0000015", "step-0000020", "step-0000025"]


def test_files_that_another_node_wrote_elsewhere_are_missed(tmp_path: Path) -> None:
    """Ranks that do not share the folder would give half a checkpoint: it is not sealed."""
    unsealed = tmp_path / sealing.unsealed_name(5, "a1")
    unsealed.mkdir()
    (unsealed / "here").write_bytes(b"h")
    files = sealing.describe_files(unsealed) | {"there": {"size_bytes": 1, "sha256": "t" * 64}}
    with pytest.raises(OSError, match=r"there has no bytes, expected 1; do all nodes share .*\?"):
        sealing.seal(unsealed, tmp_path / "step-0000005", manifest(5), files)
    assert not (tmp_path / "step-0000005").exists()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize(("owner", "call"), [(os, "listdir"), (os, "scandir"), (Path, "read_bytes"), (Path, "open")])
def test_what_cannot_be_read_now_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, call: str, number: int
) -> None:
    """One bad moment of a shared disk: one line that says so, and the checkpoint is there as before."""
    newest = _seal(tmp_path, 5)

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "step-0000005/here"))

    with monkeypatch.context() as failing, pytest.raises(JobInterruptedError) as refused:
        failing.setattr(owner, call, fail)
        newest_whole(tmp_path, KEY)
    moved = tmp_path if call == "listdir" else newest.folder
    assert str(refused.value) == (
        f"{tmp_path}/step-0000005/here: cannot be read: {os.strerror(number)}; no checkpoint was changed. Run the same"
        f" command again when it can be read; if it never can, move {moved} away by hand"
    )
    assert refused.value.is_transient
    assert newest_whole(tmp_path, KEY) == newest


def test_all_that_were_set_aside_stay_until_enough_are_whole(tmp_path: Path) -> None:
    """Training begins anew and seals one: what was there before is not worth less than that."""
    for steps in (5, 10):
        (_seal(tmp_path, steps).folder / "weights").write_bytes(b"")
    assert newest_whole(tmp_path, KEY) is None
    set_newer_aside(tmp_path, 0)
    drop_older(tmp_path, _seal(tmp_path, 2), keep_last=2)
    assert _names(tmp_path) == [".damaged-step-0000005", ".damaged-step-0000010", "step-0000002"]
    drop_older(tmp_path, _seal(tmp_path, 4), keep_last=2)
    assert _names(tmp_path) == ["step-0000002", "step-0000004"]
