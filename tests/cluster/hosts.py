"""Two hosts on one machine: network namespaces with their own address, host name, sshd and /dev/shm.

In: root, iproute2, util-linux, openssh-server; a folder.
Out: ``Hosts``: run a program on the first host, take down a link, list what runs on a host.
Promise: everything is taken down at the end, by process number, also after a failure.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

NAMES = ("cpt-node0", "cpt-node1")
ADDRESSES = ("10.77.31.1", "10.77.31.2")
PREFIX_LENGTH = 24
PROGRAMS = ("ip", "unshare", "sshd", "ssh", "ssh-keygen", "pdsh")

SSHD = """
Port 22
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile {folder}/sshd-{name}.pid
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
"""
SSH = """
Host *
  IdentityFile {folder}/id
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""


class Hosts:
    """The hosts, and how to reach them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def variables(self) -> dict[str, str]:
        """What a program needs to find ssh with the hosts' keys."""
        return {"PATH": os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])}

    def on_first(self, command: list[str]) -> list[str]:
        """The command, to be run on the first host: with its network, its name and its /dev/shm."""
        return self._on(NAMES[0], _become(NAMES[0]), command)

    def on_second(self, command: list[str]) -> list[str]:
        """The same on the second host."""
        return self._on(NAMES[1], _become(NAMES[1]), command)

    def on_second_alone(self, command: list[str], *folders: Path) -> list[str]:
        """The same on the second host, which has an empty folder of its own in the place of each of these."""
        mounts = [f"mount -t tmpfs -o size=1g tmpfs {folder}" for folder in folders]
        return self._on(NAMES[1], "; ".join([_become(NAMES[1]), *mounts]), command)

    def _on(self, name: str, become: str, command: list[str]) -> list[str]:
        return [*_inside(name), "bash", "-c", f'set -e; {become}; exec "$@"', "_", *command]

    def set_link(self, *, up: bool) -> None:
        """Plug the second host's cable in or out."""
        _run("ip", "-n", NAMES[1], "link", "set", "eth0", "up" if up else "down")

    def unplug(self, folder: Path) -> None:
        """Pull the second host's cable; the folder, which would be on a server, is out of its sight as well."""
        self.set_link(up=False)
        for pid in self._one_of_each_mount_namespace():
            _run(*_seen_by(pid), "mount", "-t", "tmpfs", "tmpfs", str(folder))

    def plug_in(self, folder: Path) -> None:
        """Put it back, whether it was pulled or not."""
        self.set_link(up=True)
        for pid in self._one_of_each_mount_namespace():
            subprocess.run([*_seen_by(pid), "umount", str(folder)], capture_output=True)

    def lose_first(self) -> None:
        """The first host's power goes: it says nothing any more, not even that its connections are closed."""
        self.set_link(up=False)
        for pid in self.processes(NAMES[0]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _one_of_each_mount_namespace(self) -> list[str]:
        """Of the second host: what came by ssh, and what a test has started there, see their own mounts."""
        found: dict[str, str] = {}
        for pid in _run("ip", "netns", "pids", NAMES[1]).split():
            with suppress(OSError):
                found[str(Path(f"/proc/{pid}/ns/mnt").readlink())] = pid
        return list(found.values())

    def processes(self, name: str) -> list[int]:
        """Numbers of the processes of a host, its sshd and the sessions of lost connections aside."""
        pids = [int(pid) for pid in _run("ip", "netns", "pids", name).split()]
        return [pid for pid in pids if _name_of(pid) != "sshd"]


def _name_of(pid: int) -> str:
    with suppress(psutil.Error):
        return psutil.Process(pid).name()
    return "sshd"  # it has ended meanwhile, and counts as little


@contextmanager
def two_hosts(folder: Path) -> Iterator[Hosts]:
    """Set up both hosts, and take them down."""
    _write_keys(folder)
    try:
        for name in NAMES:
            _run("ip", "netns", "add", name)
        _connect()
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            _write_host_names(name)
            settings = folder / f"sshd-{name}.conf"
            settings.write_text(SSHD.format(address=address, folder=folder, name=name))
            daemon = f"exec {shutil.which('sshd')} -f {settings} -E {folder}/sshd-{name}.log"
            _run(*_inside(name), "bash", "-c", f"{_become(name)}; {daemon}")
        yield Hosts(folder)
    finally:
        for name in NAMES:
            _take_down(name)


def missing_programs() -> list[str]:
    """What has to be installed first."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    return [program for program in PROGRAMS if shutil.which(program, path=path) is None]


def can_be_made() -> bool:
    """Whether this machine lets us make hosts: not so in a container without the right to administer its system."""
    made = subprocess.run(["ip", "netns", "add", "cpt-probe"], capture_output=True)
    subprocess.run(["ip", "netns", "del", "cpt-probe"], capture_output=True)
    return made.returncode == 0


def _write_keys(folder: Path) -> None:
    (folder / "bin").mkdir(parents=True)
    for name in ("host_key", "id"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    shutil.copy(folder / "id.pub", folder / "authorized_keys")
    (folder / "ssh_config").write_text(SSH.format(folder=folder))
    wrapper = folder / "bin" / "ssh"  # OpenSSH looks into the user's real home, whatever $HOME says
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    wrapper.chmod(0o755)
    Path("/run/sshd").mkdir(exist_ok=True)


def _connect() -> None:
    first, second = NAMES
    _run("ip", "link", "add", "cpt-veth", "netns", first, "type", "veth", "peer", "name", "eth0", "netns", second)
    _run("ip", "-n", first, "link", "set", "cpt-veth", "name", "eth0")
    for name, address in zip(NAMES, ADDRESSES, strict=True):
        _run("ip", "-n", name, "addr", "add", f"{address}/{PREFIX_LENGTH}", "dev", "eth0")
        for device in ("eth0", "lo"):
            _run("ip", "-n", name, "link", "set", device, "up")


def _write_host_names(name: str) -> None:
    """``ip netns exec`` puts this file in the place of /etc/hosts."""
    lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in zip(NAMES, ADDRESSES, strict=True))]
    folder = Path("/etc/netns") / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hosts").write_text("\n".join(lines) + "\n")


def _inside(name: str) -> list[str]:
    return ["ip", "netns", "exec", name, "unshare", "--uts", "--mount"]


def _seen_by(pid: str) -> list[str]:
    return ["nsenter", f"--target={pid}", "--mount"]


def _become(name: str) -> str:
    return f"hostname {name}; mount -t tmpfs -o size=1g tmpfs /dev/shm"


def _take_down(name: str) -> None:
    with suppress(subprocess.CalledProcessError):
        for _ in range(50):
            pids = _run("ip", "netns", "pids", name).split()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            if not pids:
                break
            time.sleep(0.1)
        _run("ip", "netns", "del", name)
    shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)


def _run(*command: str, variables: Mapping[str, str] | None = None) -> str:
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30, env=variables)
    return found.stdout
