"""Which local files a directory or a glob stands for, and what links in it may lead to.

In: a path or glob; endings of file names; whether links are followed.
Out: paths, none of them twice.
Promise: what cannot be looked into, or would be skipped, is an error, because skipping it would lose text; a link
leads out of the folder that was named only when the configuration says so; loops end.
Never: opens a file.
"""

import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path

from cpt_core.errors import InputError
from cpt_core.storage.filesystem import glob_pattern

GLOB_CHARACTERS = "*?["


def files_in_folder(root: str, suffixes: tuple[str, ...], *, follow_links: bool) -> list[str]:
    """Files at every depth below a folder whose names end so.

    Raises:
        InputError: for a link that leads out of the folder, or to a folder, and is not to be followed.
        OSError: when a folder cannot be looked into.
    """
    found = [path for path in _walk(root, follow_links) if path.endswith(suffixes)]
    _require_inside(root, found, follow_links)
    return found


def files_of_glob(pattern: str, *, follow_links: bool) -> list[str]:
    """Files that match; ``**`` stands for folders at every depth.

    Raises:
        InputError: as ``files_in_folder``.
    """
    root, rest = _fixed_part(pattern)
    if "**" in rest:
        matches = re.compile(glob_pattern(f"{root}/{rest}")).match
        found = [path for path in _walk(root, follow_links) if matches(path)] if Path(root).is_dir() else []
    else:
        found = [str(path) for path in _matches(Path(root), Path(rest).parts)]
    _require_inside(root, found, follow_links)
    return found


def _matches(folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """Files below a folder that match part by part; unlike ``Path.glob`` it passes over no folder that is closed."""
    part, *rest = parts
    for path in sorted(folder.iterdir()):
        if fnmatch.fnmatchcase(path.name, part):
            if not rest and not path.is_dir():
                yield path
            elif rest and path.is_dir():
                yield from _matches(path, tuple(rest))


def _walk(root: str, follow_links: bool) -> Iterator[str]:
    """Every file below a folder; each folder once, however many links lead to it."""

    def refuse(error: OSError) -> None:
        raise error

    seen = {_identity(root)}
    for folder, subfolders, names in os.walk(root, onerror=refuse, followlinks=follow_links):
        subfolders.sort(key=os.fsencode)
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        if links and not follow_links:
            raise InputError(
                f"{folder}/{links[0]}: is a symbolic link to a folder, which is not followed; name its target among "
                "the uris, remove the link, or set follow_links: true for this source"
            )
        new = [name for name in subfolders if _identity(f"{folder}/{name}") not in seen]
        seen.update(_identity(f"{folder}/{name}") for name in new)
        subfolders[:] = new
        yield from (f"{folder}/{name}" for name in names)


def _identity(folder: str) -> tuple[int, int]:
    seen = Path(folder).stat()
    return seen.st_dev, seen.st_ino


def _require_inside(root: str, paths: list[str], follow_links: bool) -> None:
    """Refuse a path that leads out of its root through a link."""
    if follow_links:
        return
    real_root = Path(root).resolve()
    real_folders = {folder: folder.resolve() for folder in dict.fromkeys(Path(path).parent for path in paths)}
    for path in map(Path, paths):
        real = path.resolve() if path.is_symlink() else real_folders[path.parent]
        if not real.is_relative_to(real_root):
            raise InputError(
                f"{path}: leads through a symbolic link to {real}, outside of {root}; name the target among the uris, "
                "remove the link, or set follow_links: true for this source"
            )


def _fixed_part(pattern: str) -> tuple[str, str]:
    """The folder before the first part with a special character, and the rest."""
    parts = Path(pattern).parts
    special = next(n for n, part in enumerate(parts) if any(character in part for character in GLOB_CHARACTERS))
    return str(Path(*parts[:special])), str(Path(*parts[special:]))
