"""A store on a real S3 server: records by conditional put, and faults of network and service."""

import hashlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from cpt_core.errors import StoreError
from cpt_core.storage import Store
from cpt_core.storage.object_store import PROBE_NAME
from tests.s3_proxy import Request, random_faults

RECORD = "tokens/a-0/artifact.json"


def once(fault: str, is_meant):
    """A fault for the first request of its kind."""
    met = []

    def choose(request: Request) -> str | None:
        if not met and is_meant(request):
            met.append(request)
            return fault
        return None

    return choose


def is_conditional_put(request: Request) -> bool:
    """A record is to be created."""
    return request.is_conditional_put and request.path.endswith("artifact.json")


def is_get(request: Request) -> bool:
    """An object is read, or a prefix listed."""
    return request.method == "GET"


def test_a_profile_says_where_and_as_whom(s3, base, aws, tmp_path):
    """The files of the AWS tools, without a variable for key, secret or endpoint."""
    (tmp_path / "config").write_text(f"[profile mine]\nendpoint_url = {s3.endpoint}\n", encoding="utf-8")
    keys = f"aws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}"
    (tmp_path / "credentials").write_text(f"[mine]\n{keys}\n", encoding="utf-8")
    files = {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }
    without = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_ENDPOINT_URL": None}
    aws(AWS_PROFILE="mine", **files, **without)
    assert Store(f"s3://{base}").create(RECORD, b"mine")
    assert s3.client().cat_file(f"{base}/{RECORD}") == b"mine"


def test_of_two_writers_of_one_record_exactly_one_wins(base):
    """Twenty races; what is stored is the winner's."""
    stores = [Store(f"s3://{base}"), Store(f"s3://{base}")]
    start = threading.Barrier(2)

    def write(writer: int, name: str) -> bool:
        start.wait()
        return stores[writer].create(name, f"writer {writer}".encode())

    with ThreadPoolExecutor(2) as pool:
        for race in range(20):
            name = f"tokens/a-{race}/artifact.json"
            won = list(pool.map(write, (0, 1), (name, name)))
            assert sorted(won) == [False, True]
            assert stores[0].read_bytes(name) == f"writer {won.index(True)}".encode()


def test_a_put_whose_answer_was_lost_is_recognised_as_its_own(base, through_proxy):
    """The connection is reset after the server stored the record; the repeated request meets it and has won."""
    proxy = through_proxy(once("reset after", is_conditional_put))
    store = Store(f"s3://{base}")
    assert store.create(RECORD, b"mine")
    assert store.read_bytes(RECORD) == b"mine"
    assert proxy.counts["reset after"] == 1
    assert [count for path, count in proxy.created.items() if path.endswith("artifact.json")] == [1]


def test_a_repeated_put_that_meets_another_writers_record_has_lost(s3, base, through_proxy):
    """While the connection breaks another writer stores its record, which stands."""

    def choose(request: Request) -> str | None:
        if is_conditional_put(request) and not s3.client().exists(f"{base}/{RECORD}"):
            s3.client().pipe_file(f"{base}/{RECORD}", b"theirs")
            return "reset before"
        return None

    through_proxy(choose)
    store = Store(f"s3://{base}")
    assert not store.create(RECORD, b"mine")
    assert store.read_bytes(RECORD) == b"theirs"


def test_an_equal_record_of_another_writer_is_no_loss(base):
    """It cannot be told from one's own whose answer was lost, and need not be."""
    store = Store(f"s3://{base}")
    assert (store.create(RECORD, b"same"), store.create(RECORD, b"same")) == (True, True)
    assert not store.create(RECORD, b"other")
    assert store.read_bytes(RECORD) == b"same"


def test_a_service_that_ignores_the_condition_is_refused(s3, base, through_proxy):
    """It lets a second writer replace an object; that is seen before a record is written, and by any first run."""

    def ignore_condition(request: Request) -> None:
        if request.is_conditional_put:
            with suppress(FileNotFoundError):
                s3.client().rm_file(request.path.lstrip("/"))

    through_proxy(ignore_condition)
    for _ in range(2):
        with pytest.raises(
            StoreError, match=r"^s3://\S+: its service ignores the condition `If-None-Match: \*` and let"
        ):
            Store(f"s3://{base}").create(RECORD, b"mine")
    assert s3.client().find(base) == [f"{base}/{PROBE_NAME}"]


def test_a_service_is_asked_once_in_a_process_whether_it_keeps_the_first_writer(base, through_proxy):
    """Two requests the first time ever, one by every later process, none after that."""
    probes: list[str] = []

    def note(request: Request) -> None:
        probes.extend(["probe"] if request.path.endswith(PROBE_NAME) and request.method == "PUT" else [])

    through_proxy(note)
    for number, asked in enumerate([2, 2]):
        assert Store(f"s3://{base}").create(f"tokens/a-{number}/artifact.json", b"mine")
        assert len(probes) == asked
    program = f"from cpt_core.storage import Store; Store('s3://{base}').create('tokens/b-0/artifact.json', b'x')"
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ.copy())
    assert len(probes) == 3


def test_a_conflict_of_two_puts_under_way_is_repeated(base, through_proxy):
    """409 says that the outcome is open; the next answer is the outcome."""
    through_proxy(once("409 ConditionalRequestConflict", is_conditional_put))
    assert Store(f"s3://{base}").create(RECORD, b"mine")


@pytest.mark.parametrize("fault", ["500", "503", "reset before", "truncate"])
def test_a_passing_fault_of_a_read_is_not_seen(base, through_proxy, fault):
    """Neither as an error nor as fewer bytes."""
    Store(f"s3://{base}").replace("a", b"0123456789" * 1000)
    proxy = through_proxy(once(fault, is_get))
    assert Store(f"s3://{base}").read_bytes("a") == b"0123456789" * 1000
    assert proxy.counts[fault] == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("503", r"as the tests ask \(SlowDown\); check the service"),
        ("reset before", r"Could not connect .*; check AWS_ENDPOINT_URL"),
        ("truncate", r"(?:payload|stream|bytes|[Cc]onnection).*; check the service"),
        ("delay", r"timeout.*; check the service"),
    ],
)
def test_a_fault_that_stays_is_one_line_in_bounded_time(base, through_proxy, impatient, fault, words):
    """Whole bytes or an error; also through a stream."""
    Store(f"s3://{base}").replace("a", b"0123456789" * 1000)
    through_proxy(lambda request: fault if is_get(request) else None)
    store = Store(f"s3://{base}")
    with pytest.raises(StoreError, match=rf"^s3://{base}/a: .*{words} and the network, then run again$"):
        store.read_bytes("a")
    with pytest.raises(StoreError, match=words), store.open("a") as stream:
        stream.read()


def test_a_peer_that_accepts_and_then_says_nothing_does_not_stop_a_run(aws, impatient, tmp_path):
    """Reading, and an upload that nobody takes off the line, end with an error."""
    (tmp_path / "big").write_bytes(bytes(24 << 20))
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        aws(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        store = Store("s3://tests/x")
        started = time.monotonic()
        with pytest.raises(StoreError, match=r"^s3://tests/x/a: "):
            store.read_bytes("a")
        with pytest.raises(StoreError, match=r"^s3://tests/x/big: "):
            store.publish(tmp_path / "big", "big", hashlib.sha256(bytes(24 << 20)).hexdigest())
        assert time.monotonic() - started < 40


def test_an_upload_that_arrives_changed_is_refused_and_repeated(base, through_proxy, tmp_path):
    """One bit flips on the way: the server compares the checksum that goes along."""
    (tmp_path / "a").write_bytes(b"0123456789")
    proxy = through_proxy(once("flip", lambda request: request.method == "PUT"))
    store = Store(f"s3://{base}")
    store.publish(tmp_path / "a", "a", hashlib.sha256(b"0123456789").hexdigest())
    assert store.read_bytes("a") == b"0123456789"
    assert proxy.counts["flip"] == 1


def test_an_upload_in_parts_survives_faults(base, through_proxy, tmp_path, monkeypatch):
    """Three parts, a third of all requests failing, among them the one that completes the object."""
    monkeypatch.setattr("cpt_core.storage.s3.PART_BYTES", 5 << 20)
    content = random.Random(1).randbytes(12 << 20)
    (tmp_path / "a").write_bytes(content)
    faults = random_faults(3, 0.3, ("500", "503", "reset before", "reset after", "truncate"))
    completed = once("reset after", lambda request: request.method == "POST" and "uploadId" in request.path)
    proxy = through_proxy(lambda request: completed(request) or faults(request))
    store = Store(f"s3://{base}")
    store.publish(tmp_path / "a", "a", hashlib.sha256(content).hexdigest())
    assert store.sha256("a") == hashlib.sha256(content).hexdigest()
    assert proxy.faults > 3


def test_what_another_process_commits_is_seen(base):
    """Listings are never answered from a cache that this process filled earlier."""
    assert Store(f"s3://{base}").folders("tokens") == []
    assert Store(f"s3://{base}").size_bytes(RECORD) is None
    program = f"from cpt_core.storage import Store; Store('s3://{base}').create('{RECORD}', b'theirs')"
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ.copy())
    assert Store(f"s3://{base}").folders("tokens") == ["a-0"]
    assert Store(f"s3://{base}").size_bytes(RECORD) == 6


def test_a_damaged_artifact_is_set_aside(base):
    """Objects are copied, then removed; the record first."""
    store = Store(f"s3://{base}")
    store.replace(RECORD, b"{}")
    store.replace("tokens/a-0/tokens-1.parquet", b"x")
    moved = store.set_aside("tokens/a-0")
    assert store.size_bytes(RECORD) is None
    assert store.read_bytes(f"{moved}/artifact.json") == b"{}"
    assert store.read_bytes(f"{moved}/tokens-1.parquet") == b"x"


def test_files_under_construction_leave_no_trace_on_this_machine(base, tmp_path, monkeypatch):
    """A process that was killed left its folder; the next run removes it, and no other's."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = (
        f"import os, tempfile; tempfile.tempdir = {str(tmp_path)!r}\n"
        f"from cpt_core.storage import Store\nwith Store('s3://{base}').staging(): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program], check=False, env=os.environ.copy())
    (left_over,) = tmp_path.iterdir()
    store = Store(f"s3://{base}")
    with store.staging() as own:
        assert store.collect_garbage() == 1
        assert list(tmp_path.iterdir()) == [own]
    assert not left_over.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_read_here_and_there_is_not_fetched_ahead(base, s3, through_proxy):
    """Of 20 MB, three reads of 1,000 bytes fetch 3,000 bytes: a random order of rows costs what the rows cost."""
    s3.client().pipe(f"{base}/store/file", bytes(20_000_000))
    ranges: list[str] = []

    def note(request):
        if request.method == "GET" and "range" in request.headers:
            ranges.append(request.headers["range"])

    through_proxy(note)
    stream = Store(f"s3://{base}/store").open_seekable("file")
    for start in (15_000_000, 4_000_000, 9_000_000):
        stream.seek(start)
        assert stream.read(1000) == bytes(1000)
    assert ranges == [f"bytes={start}-{start + 999}" for start in (15_000_000, 4_000_000, 9_000_000)]
