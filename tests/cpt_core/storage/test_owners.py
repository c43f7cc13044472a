"""Whose temporary files nobody will finish any more: judged without a clock, and never wrongly of the living."""

import os
import signal
import subprocess
import sys

import pytest

from cpt_core.storage.owners import owner_is_gone, owner_lives, owner_tag

HOST, MACHINE, BOOT, NAMESPACE, PID, STARTED, UNIQUE = range(7)


def with_part(tag: str, part: int, value: str) -> str:
    """The tag with another value in one place."""
    parts = tag.split("+")
    parts[part] = value
    return "+".join(parts)


def test_two_tags_of_a_process_differ_and_both_say_who_it_is():
    """Machine, boot, namespace, pid and start are the same, the last part never is."""
    first, second = owner_tag(), owner_tag()
    assert first.split("+")[:UNIQUE] == second.split("+")[:UNIQUE]
    assert first.split("+")[PID] == str(os.getpid())
    assert first != second


def test_a_living_process_is_not_gone():
    """This one, for instance."""
    assert not owner_is_gone(owner_tag())
    assert owner_lives(owner_tag())


@pytest.mark.parametrize("is_reaped", [True, False], ids=["reaped", "zombie"])
def test_a_killed_process_is_gone(is_reaped):
    """Also while its parent has not noticed."""
    program = "from cpt_core.storage.owners import owner_tag; print(owner_tag(), flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    tag = process.stdout.readline().strip()
    assert not owner_is_gone(tag)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    if is_reaped:
        process.wait()
    assert owner_is_gone(tag)
    assert not owner_lives(tag)
    process.wait()


def test_a_pid_that_was_given_to_another_process_is_gone():
    """The start in ticks since boot tells them apart."""
    assert owner_is_gone(with_part(owner_tag(), STARTED, "1"))


def test_another_boot_of_this_machine_is_gone():
    """Whatever process has the pid now."""
    tag = owner_tag()
    if not tag.split("+")[MACHINE]:
        assert not owner_is_gone(with_part(tag, BOOT, "00000000")), "without a machine id a host name proves nothing"
        return
    assert owner_is_gone(with_part(tag, BOOT, "00000000"))


@pytest.mark.parametrize("part", [HOST, MACHINE, NAMESPACE])
def test_what_cannot_be_seen_from_here_is_not_judged(part):
    """Another host, another machine of the same name, another container: their pids mean nothing here."""
    dead = with_part(owner_tag(), PID, "999999999")
    assert owner_is_gone(dead)
    assert not owner_is_gone(with_part(dead, part, "other"))


@pytest.mark.parametrize("name", ["", "x", "a+b+c", "publish.lock", "+" * 6, "host+1+2+3"])
def test_what_is_no_tag_is_left_alone(name):
    """Somebody put it there."""
    assert not owner_is_gone(name)
