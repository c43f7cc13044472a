"""Every error that a caller can act on.

::

    CptError                     exit code 1
    ├── ConfigError              exit code 2: the configuration or the command line is wrong
    ├── InputError               an input file cannot be read as what it claims to be
    │   └── InputChangedError    its bytes are not the bytes that were planned
    ├── StoreError               the store cannot be read or written
    ├── NondeterminismError      two computations of one key gave different content
    ├── ConservationError        documents or tokens were lost or gained: our own mistake
    ├── ShardsFailedError        some shards of a stage are missing; the others are committed
    └── JobFailedError           a launched job ended without its success record

A message is one line: what was seen, what was expected, where, and what to do.
"""


class CptError(Exception):
    """Base of all errors that end in one clear line and not in a traceback."""

    exit_code = 1


class ConfigError(CptError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class InputError(CptError):
    """An input file cannot be read as what it claims to be."""


class InputChangedError(InputError):
    """An input file changed between planning and reading."""


class StoreError(CptError):
    """The store cannot be read or written as needed."""


class NondeterminismError(CptError):
    """Two computations of the same key produced different content."""


class ConservationError(CptError):
    """Documents or tokens in are not documents or tokens out."""


class ShardsFailedError(CptError):
    """Some shards of a stage failed; all others are committed."""

    def __init__(self, stage: str, failures: dict[str, str], remedy: str) -> None:
        self.stage = stage
        self.failures = failures
        listed = "; ".join(f"{name}: {reason}" for name, reason in sorted(failures.items()))
        super().__init__(f"{stage}: {len(failures)} shard(s) failed, all others are committed. {listed}. {remedy}")


class JobFailedError(CptError):
    """A launched job ended without writing its success record."""
