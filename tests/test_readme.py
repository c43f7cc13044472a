"""The README says what is there."""

import re

import pytest
import yaml

from cpt_core.config_file import load_config
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_two_commands_are_targets_of_the_makefile():
    """And so is every other `make` command in the text."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    commands = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"demo", "test", "check", "setup", "bench", "clean"} <= commands
    assert [target for target in commands if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_every_cpt_command_exists():
    """A command in the text is a command of the program."""
    from flows.command import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    mentioned = set(re.findall(r"`?cpt ([a-z][a-z-]+)", README)) - {"command"}
    assert mentioned <= known, mentioned - known
    assert {"run", "prepare", "train", "plan", "inspect", "up", "down", "status"} <= mentioned


def test_the_tree_is_the_real_one():
    """Every path in the tree exists, and every module of the core and of flows stands in it."""
    tree = README.split("<!-- tree -->")[1].split("```")[1]
    entries: list[str] = []
    room = ""
    for line in filter(None, tree.splitlines()):
        name = line.split()[0]
        room = name if not line.startswith(" ") else room
        entries.append(name if name == room else room + name)
    assert [entry for entry in entries if not (REPOSITORY / entry).exists()] == []
    for parent in ("cpt_core", "flows"):
        children = {
            f"{parent}/{path.name}{'/' if path.is_dir() else ''}"
            for path in (REPOSITORY / parent).iterdir()
            if path.name not in {"__init__.py", "__pycache__"}
        }
        assert children == {entry for entry in entries if entry.startswith(f"{parent}/") and entry != f"{parent}/"}


def test_the_yaml_example_is_a_valid_configuration(tmp_path):
    """Five lines are a whole configuration."""
    example = README.split("```yaml\n")[1].split("```")[0]
    assert len(example.splitlines()) == 5
    path = tmp_path / "example.yaml"
    path.write_text(example, encoding="utf-8")
    assert load_config(str(path)).name == yaml.safe_load(example)["name"]


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(link):
    """Relative links are files of the repository."""
    assert (REPOSITORY / link).exists()


def test_the_deployments_named_are_the_deployments_there_are():
    """Flow and deployment names are those that `cpt up` registers."""
    deployments = yaml.safe_load((REPOSITORY / "deployments/prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    named = {name.rpartition("/")[2] for name in re.findall(r"cpt(?:-[a-z]+)?/[a-z]+-[a-z]+", README)}
    assert named == {deployment["name"] for deployment in deployments}
