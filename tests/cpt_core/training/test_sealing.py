"""Sealed checkpoints: only whole ones are found, and old ones go last."""

from pathlib import Path

from cpt_core.training import sealing
from cpt_core.training.sealing import Manifest, drop_older, drop_unsealed, newest_whole, seal

KEY = "k" * 64


def _seal(checkpoints: Path, steps: int, key: str = KEY) -> Path:
    unsealed = checkpoints / sealing.unsealed_name(steps, "a1")
    unsealed.mkdir(parents=True)
    (unsealed / "weights").write_bytes(b"w" * steps)
    final = checkpoints / sealing.checkpoint_name(steps)
    seal(unsealed, final, Manifest(key, 2, 3, {"steps": steps}))
    return final


def test_newest_whole(tmp_path: Path) -> None:
    """The newest checkpoint of the key is found; one of another key is not."""
    _seal(tmp_path, 5)
    newest = _seal(tmp_path, 10)
    _seal(tmp_path, 15, key="other")
    assert newest_whole(tmp_path, KEY) == sealing.SealedCheckpoint(newest, Manifest(KEY, 2, 3, {"steps": 10}))
    assert newest_whole(tmp_path, "unknown") is None


def test_damage_is_passed_over(tmp_path: Path) -> None:
    """One changed byte, a missing file, an added one or a lost manifest: the one before is taken."""
    good = _seal(tmp_path, 5)
    (_seal(tmp_path, 10) / "weights").write_bytes(b"x" * 10)
    (_seal(tmp_path, 15) / "weights").unlink()
    (_seal(tmp_path, 20) / "more").touch()
    (_seal(tmp_path, 25) / "manifest.json").unlink()
    newest = newest_whole(tmp_path, KEY)
    assert newest is not None
    assert newest.folder == good


def test_unsealed_is_never_found(tmp_path: Path) -> None:
    """What an attempt left unfinished is not a checkpoint, and is removed at the next start."""
    (tmp_path / sealing.unsealed_name(5, "a1")).mkdir()
    assert newest_whole(tmp_path, KEY) is None
    drop_unsealed(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_older_ones_go_after_the_newest_verified(tmp_path: Path) -> None:
    """The newest two stay; nothing goes while the newest is damaged."""
    folders = [_seal(tmp_path, steps) for steps in (5, 10, 15)]
    (folders[2] / "weights").write_bytes(b"")
    drop_older(tmp_path, folders[2], keep_last=2)
    assert all(folder.exists() for folder in folders)
    (folders[2] / "weights").write_bytes(b"w" * 15)
    drop_older(tmp_path, folders[2], keep_last=2)
    assert [folder.exists() for folder in folders] == [False, True, True]


def test_sealing_again_replaces_a_damaged_one(tmp_path: Path) -> None:
    """A step that is trained again takes the place of its damaged checkpoint."""
    (_seal(tmp_path, 5) / "weights").unlink()
    again = _seal(tmp_path, 5)
    assert newest_whole(tmp_path, KEY) == sealing.SealedCheckpoint(again, Manifest(KEY, 2, 3, {"steps": 5}))
