"""The table of `make test-matrix`."""

from tests.faults.table import END, PAGE
from tests.matrix import BEGIN, table

REPORT = """<testsuites><testsuite>
<testcase classname="tests.cpt_core.training.test_speed" name="test_a_compiled_model"/>
<testcase classname="tests.cpt_core.training.test_resume" name="test_bf16[0]"/>
<testcase classname="tests.cpt_core.training.test_resume" name="test_bf16[1]"><failure/></testcase>
<testcase classname="tests.cpt_core.training.test_resume" name="test_bf16[2]"><skipped/></testcase>
</testsuite></testsuites>"""


def test_cells_are_counted_by_test():
    """One that failed or was skipped has not passed."""
    assert table(REPORT, 90.0).splitlines()[2:4] == [
        "| `cpt_core.training.test_resume.test_bf16` | 3 | 1 |",
        "| `cpt_core.training.test_speed.test_a_compiled_model` | 1 | 1 |",
    ]


def test_the_page_has_the_table():
    """As the command writes it: all cells of the mathematics of training, and the day."""
    lines = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].strip().splitlines()
    assert "| `cpt_core.training.test_mathematics.test_equal_to_plain_pytorch` | 18 | 18 |" in lines
    assert lines[-1][:3] == "202"
