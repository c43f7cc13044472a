"""Two runs on one store share the work; a claim never makes a result wrong."""

import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from cpt_core import claims as module
from cpt_core.artifacts import Draft, commit, find
from cpt_core.claims import FOLDER, Claims
from cpt_core.errors import StoreError

KEY_PARTS = {"stage": "tokens", "input": "a"}
KEY = "k" * 64


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Looks every 10 ms."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)


@pytest.fixture
def work(store):
    """(find, compute, names of those who have computed)."""
    computed = []

    def look():
        return find(store, "tokens", "a", KEY_PARTS)

    def compute(who, wait=lambda: None):
        wait()
        computed.append(who)
        with store.staging() as folder:
            (folder / "tokens.txt").write_text("ids")
            return commit(store, Draft("tokens", "a", KEY_PARTS, {"tokens": folder / "tokens.txt"}, {}, 0.0))

    return look, compute, computed


def test_the_second_of_two_runs_waits_for_what_the_first_computes(store, work):
    """It gets the artifact as cached, and computes nothing."""
    look, compute, computed = work
    is_computing, may_end = threading.Event(), threading.Event()

    def slowly():
        is_computing.set()
        assert may_end.wait(30)

    with Claims(store) as first, Claims(store) as second:
        thread = threading.Thread(target=first.compute_once, args=(KEY, "a", look, lambda: compute("first", slowly)))
        thread.start()
        assert is_computing.wait(30)
        threading.Timer(0.2, may_end.set).start()
        artifact = second.compute_once(KEY, "a", look, lambda: compute("second"))
        thread.join()
    assert computed == ["first"]
    assert artifact.is_cached


def test_the_second_run_computes_what_failed_in_the_first(store, work):
    """A claim ends with its computation, however that ends."""
    look, compute, computed = work
    with Claims(store) as first, Claims(store) as second:
        with pytest.raises(StoreError):
            first.compute_once(KEY, "a", look, lambda: fail())
        assert not second.compute_once(KEY, "a", look, lambda: compute("second")).is_cached
    assert computed == ["second"]


def fail():
    """A computation that does not succeed."""
    raise StoreError("the disk is full")


HOLD = """
import sys, time
from cpt_core.claims import Claims
from cpt_core.storage import Store
with Claims(Store(sys.argv[1])) as claims:
    claims.compute_once(sys.argv[2], "a", lambda: None, lambda: (print("mine", flush=True), time.sleep(600)))
"""


def hold_elsewhere(store) -> subprocess.Popen:
    """A process that computes for ever."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, store.root_uri, KEY], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "mine\n"
    return process


def test_the_claim_of_a_killed_process_is_taken_over(store, work):
    """At once, because this machine can see that it is gone; nothing of it is left."""
    look, compute, computed = work
    process = hold_elsewhere(store)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with Claims(store) as claims:
        claims.compute_once(KEY, "a", look, lambda: compute("next"))
    assert computed == ["next"]
    assert list(store.files(FOLDER)) == list(store.files(module.OWNERS)) == []


def test_a_silent_owner_on_another_machine_is_taken_over(store, work, monkeypatch):
    """Its sign of life does not change while this run looks; no clock of the other machine is asked."""
    look, compute, computed = work
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.2)
    store.note(f"{FOLDER}/{KEY}", b"another-host+0+0+0+1+1+abc")
    with Claims(store) as claims:
        claims.compute_once(KEY, "a", look, lambda: compute("next"))
    assert computed == ["next"]


def test_another_machine_is_silent_for_three_minutes_before_it_is_taken_over(store, work, monkeypatch):
    """One look a second by a clock of the test's own, which begins at 1000: its sign of life changes at 1100 for the
    last time. 180 s later it still has its claim, a second after that it has lost it.
    """
    look, compute, computed = work
    owner, clock = "another-host+0+0+0+1+1+abc", [1000]
    store.note(f"{FOLDER}/{KEY}", owner.encode())

    def sleep(_):
        clock[0] += 1
        if clock[0] in (1050, 1100):
            store.replace(f"{module.OWNERS}/{owner}", f"{clock[0]} ".encode())

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    with Claims(store) as claims:
        claims.compute_once(KEY, "a", look, lambda: compute(f"next, at {clock[0]}"))
    assert computed == ["next, at 1281"]


def test_a_living_process_of_this_machine_is_waited_for_however_silent(store, work, monkeypatch):
    """A loaded machine may keep it from giving signs."""
    look, compute, computed = work
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.0)
    monkeypatch.setattr(module, "BEAT_SECONDS", 600.0)
    with Claims(store) as first, Claims(store) as second, first._held(KEY):
        thread = threading.Thread(target=second.compute_once, args=(KEY, "a", look, lambda: compute("second")))
        thread.start()
        thread.join(0.5)
        assert computed == []
        compute("first")
        thread.join(30)
    assert computed == ["first"]


def test_a_living_owner_on_another_machine_is_waited_for(store, work, monkeypatch, until):
    """As long as its sign of life changes, however slow it is."""
    look, compute, computed = work
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.5)
    owner = "another-host+0+0+0+1+1+abc"
    store.note(f"{FOLDER}/{KEY}", owner.encode())
    with Claims(store) as claims:
        thread = threading.Thread(target=claims.compute_once, args=(KEY, "a", look, lambda: compute("this")))
        thread.start()
        for beat in range(20):
            store.replace(f"{module.OWNERS}/{owner}", str(beat).encode())
            thread.join(0.1)
        assert computed == []
        compute("other")
        thread.join(30)
    assert computed == ["other"]


def test_a_store_that_takes_no_claims_is_no_hindrance(store, work, monkeypatch):
    """The work is done all the same."""
    look, compute, computed = work

    def refuse(*_):
        raise StoreError("read-only")

    monkeypatch.setattr(store, "note", refuse)
    with Claims(store) as claims:
        claims.compute_once(KEY, "a", look, lambda: compute("this"))
    assert computed == ["this"]
