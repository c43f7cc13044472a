"""docs/faults.md names a test for every way to fail, and each of them is there."""

import importlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| [^|]+ \| [^|]+ \| ([^|]+) \|$", PAGE, re.MULTILINE)
NAME = re.compile(r"`(?P<file>[\w/]+)\.py::(?P<test>test_\w+)(?:\[(?P<cases>[^\]]+)\])?`")


def exists(name: re.Match[str]) -> bool:
    """Whether the file has this test, and the test these cases."""
    module = importlib.import_module(f"tests.{name['file'].replace('/', '.')}")
    test = getattr(module, name["test"], None)
    if getattr(test, "__module__", None) != module.__name__:
        return False
    cases = name["cases"].split("; ") if name["cases"] else []
    return {*cases} <= {*case_ids(test)}


def case_ids(test: Callable[..., None]) -> Iterator[str]:
    """The ids that the parameters of a test are given; of several sets of parameters, those of each."""
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            _, values = mark.args
            ids = mark.kwargs.get("ids", _own_id)
            yield from map(ids, values) if callable(ids) else ids


def _own_id(value: Any) -> str:
    """That of ``pytest.param``, or a string as it is; what else pytest makes up is no name for a case."""
    return value if isinstance(value, str) else getattr(value, "id", None) or ""


def test_every_way_to_fail_has_its_row_and_the_tests_of_a_row_exist():
    """66 of them, in order; a test is known by file, function and cases."""
    assert [int(number) for number, _ in ROWS] == [*range(1, 67)]
    for _, names in ROWS:
        found = list(NAME.finditer(names))
        assert " ".join(name[0] for name in found) == names
        assert [name[0] for name in found if not exists(name)] == []


def test_what_a_file_only_mentions_is_no_test():
    """Nor is a case of one test a case of another."""
    lines = "cpt_core/tokenization/test_lines.py"
    assert exists(NAME.fullmatch(f"`{lines}::test_a_truncated_compressed_file_is_an_error[gzip; zstd]`"))
    assert not exists(NAME.fullmatch(f"`{lines}::test_a_truncated_compressed_file_is_an_error[plain]`"))
    assert not exists(NAME.fullmatch(f"`{lines}::test_nothing`"))
