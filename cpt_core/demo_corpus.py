"""A corpus that every machine has: the source of Python's own standard library.

In: a folder.
Out: two sources as .jsonl files: ``docs`` (documentation strings) and ``code`` (everything else of the modules),
each with a part for training and a part held out.
Promise: a module is in training or held out by its name alone, in both sources, so that a base model trained on
one part has not seen the other, on any Python.
Never: writes into an existing folder's files unless they are its own.
"""

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import orjson

from cpt_core.errors import ConfigError

HELD_OUT_OF_100 = 8
"""Share of modules held out, in per cent."""
FILES_OF = {"docs": 3, "code": 4}
"""How many training files each source is written as."""
_SKIPPED = ("site-packages", "test", "tests", "encodings", "idlelib", "lib2to3", "__pycache__")


def write_demo_corpus(folder: Path) -> dict[str, int]:
    """Write the corpus: ``docs-train-0.jsonl`` …, ``docs-held-out.jsonl``, and the same for ``code``.

    Returns:
        documents by file name.

    Raises:
        ConfigError: when this Python has no readable standard library.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[bytes]] = {
        name: [] for source, files in FILES_OF.items() for name in [*_train_files(source, files), _held_out(source)]
    }
    for module, path in _modules():
        text = path.read_text(encoding="utf-8", errors="replace")
        code, documentation = _split(text)
        for source, document in (("docs", documentation), ("code", code)):
            if document.strip():
                line = orjson.dumps({"text": document, "source": f"python/{module}"})
                lines[_file_for(source, module)].append(line)
    for name, documents in lines.items():
        (folder / name).write_bytes(b"".join(line + b"\n" for line in documents))
    return {name: len(documents) for name, documents in lines.items()}


def _modules() -> Iterator[tuple[str, Path]]:
    """(dotted-less name, path) of every module of the standard library, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(
        path for path in root.rglob("*.py") if not any(part in _SKIPPED for part in path.relative_to(root).parts)
    )
    if not paths:
        raise ConfigError(f"{root}: holds no Python source; expected the standard library of this Python")
    for path in paths:
        yield path.relative_to(root).as_posix(), path


def _split(text: str) -> tuple[str, str]:
    """The code without its documentation strings, and the documentation strings under their names."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return text, ""
    lines = text.splitlines(keepends=True)
    documented = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        documentation = ast.get_docstring(node)
        if documentation:
            name = getattr(node, "name", None)
            documented.append(f"{name}\n{documentation}" if name else documentation)
            string = node.body[0]
            for line in range(string.lineno - 1, string.end_lineno or string.lineno):
                lines[line] = ""
    return "".join(lines), "\n\n".join(documented)


def _file_for(source: str, module: str) -> str:
    digest = int(hashlib.sha256(module.encode()).hexdigest()[:8], 16)
    if digest % 100 < HELD_OUT_OF_100:
        return _held_out(source)
    return _train_files(source, FILES_OF[source])[digest // 100 % FILES_OF[source]]


def _train_files(source: str, files: int) -> list[str]:
    return [f"{source}-train-{number}.jsonl" for number in range(files)]


def _held_out(source: str) -> str:
    return f"{source}-held-out.jsonl"
