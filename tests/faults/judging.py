"""What came of an attempt to break a promise: empty when it held, else what is wrong in one line."""

import re
import shutil
from pathlib import Path

from cpt_core.storage import Store
from cpt_core.verification import verify_store
from tests.faults.runs import Outcome, Runs, contents, torn_files, verified
from tests.faults.shim import Fault

OUT_OF_SPACE = ("ENOSPC", "EDQUOT")
"""Errors of calls that take space."""


def problem_of_failure(status: str, message: str, fault: Fault, step: str) -> str:
    """A failing call ends in success, or in one clear line that says where."""
    if status == "done":
        return ""
    if status != "error":
        return f"{status}: {message}"
    if "\n" in message or "cannot be" not in message:
        return f"no clear line: {message!r}"
    outside = re.search(r" (/corpus|/tokenizer)(/|$)", step)
    if outside and outside[1] not in message:
        return f"names another place: {message}"
    if fault.kind in OUT_OF_SPACE and "cannot be written" in message:
        unsaid = [what for what in ("bytes are needed", "bytes are free") if what not in message]
        return f"does not say how many {unsaid}: {message}" if unsaid else ""
    return ""


def problem_of_flip(runs: Runs, store: Path, path: Path) -> str:
    """A changed byte is found, in its artifact and in no other, and the next run repairs it."""
    folders = {finding.folder for finding in verify_store(Store(str(store))) if finding.is_damage}
    if folders != {str(path.parent.relative_to(store))}:
        return f"verification found {sorted(folders)}"
    return _problem_of_repair(runs, store, ["verify=full"])


def problem_of_command(runs: Runs, store: Path, path: Path) -> str:
    """As a user does it: the exit code and the finding, then the repair, then an ordinary run."""
    found = verified(runs.config, store)
    folders = [path.parent in (Path(finding["uri"]), *Path(finding["uri"]).parents) for finding in found["findings"]]
    if found["status"] != 1 or not folders or not all(folders):
        return f"`cpt verify` ended with {found}"
    repaired = verified(runs.config, store, "--repair")
    if len(repaired["set_aside"]) != 1:
        return f"`cpt verify --repair` ended with {repaired}"
    return _problem_of_repair(runs, store, [])


def _problem_of_repair(runs: Runs, store: Path, overrides: list[str]) -> str:
    outcome = runs.run(store, overrides=overrides)
    if outcome.status != "done":
        return f"the next run ended as {outcome.status}: {outcome.message}"
    if contents(store) != runs.reference or torn_files(store):
        return "the next run did not repair it"
    set_aside = list((store / "damaged").iterdir())
    shutil.rmtree(store / "damaged")
    return "" if len(set_aside) == 1 else f"set aside: {set_aside}"


def problem_of_overlap(outcomes: list[Outcome]) -> str:
    """Rivals that came one after the other prove nothing."""
    last_start, first_end = max(outcome.started for outcome in outcomes), min(outcome.ended for outcome in outcomes)
    late = last_start - first_end
    return f"the last run started {late:.3f} s after the first one ended" if late >= 0 else ""
