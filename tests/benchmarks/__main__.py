"""Command line: see the package."""

import argparse
import subprocess
import sys
from collections.abc import Callable

from tests.benchmarks import growth, long_documents, orchestration, packing, planning, reading, tokenization, training
from tests.benchmarks.materials import FOLDER
from tests.benchmarks.measure import Measurement, Subject, measure
from tests.benchmarks.report import report, write_report
from tests.conftest import REPOSITORY

SUBJECTS: dict[str, Callable[[bool], Subject]] = {
    "tokenization": tokenization.subject,
    "long documents": long_documents.subject,
    "packing": packing.subject,
    "planning": packing.planning_subject,
    "reading": reading.subject,
    "growth": growth.subject,
    "orchestration": orchestration.subject,
    "plan": planning.subject,
    "training": training.subject,
}
"""Name to maker; the maker is told whether the run is a quick one, and prepares what its contenders read."""


def main() -> None:
    """Measure, and write after each subject, so that a later one that fails costs only itself.

    A whole measurement goes to docs, a quick one to build/bench. Subjects that are not named stay as they were measured.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(SUBJECTS))
    parser.add_argument("--quick", action="store_true", help="smaller corpora, fewer repeats")
    options = parser.parse_args()
    if unknown := set(options.subjects) - SUBJECTS.keys():
        parser.error(f"no subject {', '.join(sorted(unknown))}; there are {', '.join(SUBJECTS)}")
    folder = FOLDER if options.quick else REPOSITORY / "docs"
    failures = []
    for name in options.subjects or SUBJECTS:
        try:
            subject = SUBJECTS[name](options.quick)
            measurements = run(subject, subject.quick_repeats if options.quick else subject.repeats)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            failures.append(f"{name}: {error}")
            continue
        write_report(report(subject, measurements), folder, "benchmarks", order=list(SUBJECTS))
    print(f"{folder}/benchmarks.md")
    if failures:
        sys.exit("\n".join(failures))


def run(subject: Subject, repeats: int) -> list[Measurement]:
    """All contenders of a subject, one after the other."""
    measurements = []
    for contender in subject.contenders:
        found = measure(contender, repeats)
        print(f"{subject.name}: {found.name}: {found.median:.3g} {subject.unit} {found.facts}", file=sys.stderr)
        measurements.append(found)
    return measurements


if __name__ == "__main__":
    main()
