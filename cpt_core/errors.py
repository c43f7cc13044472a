"""Every error that a caller can act on.

::

    CptError                     exit code 1
    ├── ConfigError              exit code 2: the configuration or the command line is wrong
    ├── InputError               an input file cannot be read as what it claims to be
    │   └── InputChangedError    its bytes are not the bytes that were planned
    ├── StoreError               the store cannot be read or written
    ├── EngineMismatchError      the fast tokenizer gave other ids than the reference
    ├── WorkerError              a process that computed a shard ended or fell silent
    ├── NondeterminismError      two computations of one key gave different content
    ├── ConservationError        documents or tokens were lost or gained: our own mistake
    ├── ShardsFailedError        some shards of a stage are missing; the others are committed
    └── JobFailedError           a launched job ended without its success record
        └── JobInterruptedError  something broke it off; another attempt may succeed

A message is one line: what was seen, what was expected, where, and what to do. File names and values in it may come
from the data, so whatever could drive a terminal or begin a line of a log is escaped. It never repeats a secret,
whatever text of a library it quotes.
"""

from cpt_core.printable import printable
from cpt_core.redaction import redacted


class CptError(Exception):
    """Base of all errors that end in one clear line and not in a traceback."""

    exit_code = 1
    keeps = ""
    """Unprintable characters that its messages need."""

    def __init__(self, message: str, *, is_transient: bool = False) -> None:
        super().__init__(printable(redacted(message), keep=self.keeps))
        self.is_transient = is_transient
        """Whether the same work may succeed a little later, without anybody's doing."""


class ConfigError(CptError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class InputError(CptError):
    """An input file cannot be read as what it claims to be."""


class InputChangedError(InputError):
    """An input file changed between planning and reading."""


class StoreError(CptError):
    """The store cannot be read or written as needed."""


class EngineMismatchError(CptError):
    """The fast tokenizer gave other ids than the reference."""


class WorkerError(CptError):
    """A process that computed a shard ended, or gave no sign of life."""


class NondeterminismError(CptError):
    """Two computations of the same key produced different content."""


class ConservationError(CptError):
    """Documents or tokens in are not documents or tokens out."""


class ShardsFailedError(CptError):
    """Some shards of a stage failed; all others are committed."""

    def __init__(self, stage: str, failures: dict[str, str], remedy: str) -> None:
        self.stage = stage
        self.failures = {name: redacted(reason) for name, reason in failures.items()}
        listed = ". ".join(_told_together(failures))
        super().__init__(f"{stage}: {len(failures)} shard(s) failed, all others are committed. {listed}. {remedy}")


def _told_together(failures: dict[str, str]) -> list[str]:
    """Reasons of shards, in which the last clause, what to do, stands once for all that share it."""
    by_remedy: dict[str, dict[str, list[str]]] = {}
    for name, reason in sorted(failures.items()):
        border = max(reason.rfind("; "), reason.rfind(". "))
        seen, remedy = (reason[:border], reason[border:]) if border > 0 else (reason, "")
        by_remedy.setdefault(remedy, {}).setdefault(seen, []).append(name)
    return [
        "; ".join(f"{', '.join(names)}: {seen}" for seen, names in reasons.items()) + remedy
        for remedy, reasons in by_remedy.items()
    ]


class JobFailedError(CptError):
    """A launched job ended without writing its success record; the last lines of its log are part of the message."""

    keeps = "\n\t"


class JobInterruptedError(JobFailedError):
    """A rank or the launcher of a job died, hung or lost its connection: another attempt may succeed."""
