"""docs/faults.md names a test for every way to fail, and each of them is there."""

import ast
import re

from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| [^|]+ \| [^|]+ \| ([^|]+) \|$", PAGE, re.MULTILINE)
NAME = re.compile(r"`(?P<file>[\w/]+\.py)::(?P<test>test_\w+)(?:\[(?P<cases>[^\]]+)\])?`")


def exists(name: re.Match[str]) -> bool:
    """Whether the file has this function, and the cases are named in it."""
    source = (REPOSITORY / "tests" / name["file"]).read_text(encoding="utf-8")
    functions = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    cases = name["cases"].split("; ") if name["cases"] else []
    return name["test"] in functions and all(f'"{case}"' in source or f"promises.{case}:" in source for case in cases)


def test_every_way_to_fail_has_its_row_and_the_tests_of_a_row_exist():
    """66 of them, in order; a test is known by file, function and cases."""
    assert [int(number) for number, _ in ROWS] == [*range(1, 67)]
    for _, names in ROWS:
        found = list(NAME.finditer(names))
        assert " ".join(name[0] for name in found) == names
        assert [name[0] for name in found if not exists(name)] == []
