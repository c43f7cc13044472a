"""One line of the tables of promises."""

from dataclasses import dataclass, field

SEED = 3407
"""Of every draw."""


@dataclass
class Row:
    """A promise, and how it fared.

    Attributes:
        promise: in one line.
        command: reproduces it.
        tried: how many attempts there were to break it.
        problems: one line for each attempt that succeeded.
    """

    promise: str
    command: str
    tried: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def held(self) -> int:
        """Attempts that failed."""
        return self.tried - len(self.problems)

    def note(self, what: str, problem: str) -> None:
        """One more attempt, and what it broke, if anything."""
        self.tried += 1
        if problem:
            self.problems.append(f"{what}: {problem}")
