"""What the server knows after a run of more shards than task runs."""

import sqlite3
from contextlib import closing

from tests.benchmarks.many_shards import seconds_of_command, write_many_shards
from tests.flows.homes import new_home


def test_every_task_run_of_a_large_run_reaches_its_final_state(home_with_schema, tmp_path):
    """450 shards are 200 task runs; the embedded server has recorded each of them when the command ends."""
    home = new_home(home_with_schema, tmp_path / "home")
    seconds_of_command(write_many_shards(tmp_path / "many", 450), home)
    with closing(sqlite3.connect(home / "embedded" / "0" / "prefect.db")) as database:
        rows = database.execute(
            "SELECT substr(name, 1, instr(name, ' ') - 1), state_type, COUNT(*) FROM task_run GROUP BY 1, 2 ORDER BY 1"
        ).fetchall()
    assert rows == [
        ("discover", "COMPLETED", 1),
        ("index", "COMPLETED", 1),
        ("pack", "COMPLETED", 1),
        ("tokenize", "COMPLETED", 200),
    ]
