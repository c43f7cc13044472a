"""Secrets in the environment of commands, and the search for them wherever they may have gone."""

import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

PLANTED = {
    "HF_TOKEN": "hf_canaryOfTheHubHubHub",
    "PREFECT_API_AUTH_STRING": "admin:canary-of-prefect",
    "MY_DATABASE_PASSWORD": "canary-of-the-database",
    "WANDB_API_KEY": "canary-of-the-tracker",
    "GITHUB_TOKEN": "ghp_canaryOfTheForge",
    "HTTP_PROXY": "http://user:canary-of-the-proxy@127.0.0.1:9",
    "HTTPS_PROXY": "http://user:canary-of-the-other-proxy@127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
}
"""Variables for every command. Nobody listens where the proxies should be."""
SESSION_TOKEN = {"AWS_SESSION_TOKEN": "canary-of-the-session"}
"""With it the S3 server of the tests refuses a request."""
SECRETS = (
    "canaryOfTheHubHubHub",
    "canary-of-prefect",
    "canary-of-the-database",
    "canary-of-the-tracker",
    "canaryOfTheForge",
    "canary-of-the-proxy",
    "canary-of-the-other-proxy",
    "canary-of-the-session",
)
"""What is looked for, beside the keys of the S3 server."""
DEBUG = {
    "PREFECT_LOGGING_LEVEL": "DEBUG",
    "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG",
    "PREFECT_SERVER_LOGGING_LEVEL": "DEBUG",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "DEBUG",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "cpt_core,s3fs,fsspec,botocore,aiobotocore",
    "S3FS_LOGGING_LEVEL": "DEBUG",
}
_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Seen:
    """What a finished command has shown."""

    returncode: int
    output: str
    command_lines: set[str]
    """Of every process of this machine while it ran."""

    def haystack(self, name: str) -> dict[str, bytes]:
        """Place to content."""
        lines = "\n".join(self.command_lines)
        return {f"output of {name}": self.output.encode(), f"process list during {name}": lines.encode()}


def watched(process: "subprocess.Popen[str]") -> Seen:
    """Wait for a command; the process list is sampled twenty times a second, as any user of the machine can."""
    lines: set[str] = set()

    def sample() -> None:
        while process.poll() is None:
            lines.update(" ".join(other.info["cmdline"] or []) for other in psutil.process_iter(["cmdline"]))
            time.sleep(_LOOK_SECONDS)

    sampler = threading.Thread(target=sample)
    sampler.start()
    stdout, stderr = process.communicate(timeout=300)
    sampler.join()
    return Seen(process.returncode, stdout + stderr, lines)


def files_under(folder: Path) -> dict[str, bytes]:
    """Every file: logs, databases, records, tables."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def found_in(haystack: dict[str, bytes], secrets: Iterable[str] = SECRETS) -> list[tuple[str, str]]:
    """Each (place, secret) where one is."""
    return [(place, secret) for place, content in haystack.items() for secret in secrets if secret.encode() in content]
