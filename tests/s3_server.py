"""A real S3 server (SeaweedFS) on loopback, for tests: it enforces credentials and conditional puts."""

import ctypes
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import s3fs

WEED = Path(sys.executable).parent / "weed"
HOST = "127.0.0.1"
GRPC_OFFSET = 10_000
"""SeaweedFS serves gRPC at each port plus this."""
START_ATTEMPTS = 3
START_SECONDS = 90
ACCESS_KEY, SECRET_KEY = "AKIACPTTESTSTESTS000", "secret-of-the-tests-0123456789abcdef"
READER_KEY, READER_SECRET = "AKIACPTTESTSREADER00", "secret-of-the-reader-0123456789abcde"
_SERVICES = ("master", "volume", "filer", "s3")


@dataclass(frozen=True)
class S3Server:
    """Where it listens, and as whom to come."""

    port: int
    pid: int
    host: str = HOST
    bucket: str = "tests"
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    @property
    def endpoint(self) -> str:
        """URL of the server."""
        return f"http://{self.host}:{self.port}"

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """The standard variables by which a user names server and credentials."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self) -> s3fs.S3FileSystem:
        """A client of the tests' own, which caches nothing."""
        return _client(self)


@functools.cache
def _client(server: S3Server) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(
        key=server.access_key,
        secret=server.secret_key,
        endpoint_url=server.endpoint,
        use_listings_cache=False,
        skip_instance_cache=True,
    )


@contextmanager
def s3_server(folder: Path, host: str = HOST) -> Iterator[S3Server]:
    """A server with one empty bucket; killed at the end, because its own ending takes half a minute."""
    with ExitStack() as stack:
        process, ports = _start(folder, host)
        stack.callback(_kill, process, ports)
        server = S3Server(ports["s3"], process.pid, host)
        _until_it_serves(server, process, folder / "log")
        yield server


def _start(folder: Path, host: str) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
    for attempt in range(START_ATTEMPTS):  # another process can take a free port before the server does
        data = folder / f"data-{attempt}"
        data.mkdir(parents=True)
        ports = dict(zip(_SERVICES, _free_ports(host, len(_SERVICES)), strict=True))
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                _command(data, host, ports),
                cwd=data,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
            )
        if _listens(process, host, list(ports.values())):
            return process, ports
        _kill(process, ports)
    raise RuntimeError(f"the S3 server does not start: {(folder / 'log').read_text(encoding='utf-8')[-2000:]}")


def _command(data: Path, host: str, ports: dict[str, int]) -> list[str]:
    identities = [
        _identity("tests", ACCESS_KEY, SECRET_KEY, ["Admin", "Read", "List", "Tagging", "Write"]),
        _identity("reader", READER_KEY, READER_SECRET, ["Read", "List"]),
    ]
    (data / "s3.json").write_text(json.dumps({"identities": identities}), encoding="utf-8")
    options = {
        "dir": data,
        "ip": host,
        "ip.bind": host,
        "filer": "true",
        "s3": "true",
        "s3.config": data / "s3.json",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.autoCreateBucket": "false",
        "master.volumeSizeLimitMB": 64,
        "master.telemetry": "false",
        "metricsPort": 0,
        **{f"{service}.port": port for service, port in ports.items()},
    }
    return [str(WEED), "server", *(f"-{name}={value}" for name, value in options.items())]


def _identity(name: str, access_key: str, secret_key: str, actions: list[str]) -> dict[str, object]:
    return {
        "name": name,
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": actions,
    }


def _free_ports(host: str, count: int) -> list[int]:
    """Ports that are free together with their gRPC ports; held until all are found, so that none comes twice."""
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            plain, grpc = socket.socket(), socket.socket()
            held.callback(plain.close)
            held.callback(grpc.close)
            plain.bind((host, 0))
            port = plain.getsockname()[1]
            with suppress(OSError, OverflowError):
                grpc.bind((host, port + GRPC_OFFSET))
                ports.append(port)
    return ports


def _listens(process: subprocess.Popen[bytes], host: str, ports: list[int]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    waiting = set(ports)
    while waiting and process.poll() is None and time.monotonic() < deadline:
        waiting = {port for port in waiting if not _answers(host, port)}
        time.sleep(0.1)
    return not waiting


def _answers(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _until_it_serves(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """An open port is not yet a server that can store: wait until an object has been put."""
    deadline = time.monotonic() + START_SECONDS
    client = server.client()
    while True:
        try:
            with suppress(FileExistsError):
                client.mkdir(server.bucket)
            client.pipe_file(f"{server.bucket}/ready", b"ready")
            client.rm_file(f"{server.bucket}/ready")
            return
        except Exception as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server does not serve: {error}; log: {log}") from error
            time.sleep(0.3)


def _die_with_parent() -> None:
    """Tests that are killed leave no server behind (prctl 1: PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _kill(process: subprocess.Popen[bytes], ports: dict[str, int]) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    for service, port in ports.items():  # sockets that the server makes in /tmp by itself
        for name in (f"{service}-{port}", f"{service}-grpc-{port + GRPC_OFFSET}"):
            Path(f"/tmp/seaweedfs-{name}.sock").unlink(missing_ok=True)
