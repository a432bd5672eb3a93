"""The machine that the pretended cluster lives on: its programs, packages, processes and ports."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
ACCOUNTING_PROGRAMS = ("mariadbd", "slurmdbd", "sacct")
ACCOUNTING_PACKAGES = ("mariadb-server-core", "slurmdbd")
INSTALL = "python3 -m slurm.cluster install"


class ClusterError(Exception):
    """What is wrong and what to do, in one message."""


def program(name: str) -> str | None:
    """Where a program lies, also where only root's path leads; None if it is not there."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which(name, path=path)


def absent(accounting: bool) -> list[str]:
    """The programs that this machine lacks."""
    return [name for name in PROGRAMS + ACCOUNTING_PROGRAMS * accounting if program(name) is None]


def require_programs(accounting: bool) -> None:
    """Raise `ClusterError` with the command that installs what this machine lacks."""
    if lacking := absent(accounting):
        without = "" if absent(False) else " (or do without accounting: --no-accounting)"
        raise ClusterError(
            f"{', '.join(lacking)} not found. On Debian or Ubuntu, as root: {INSTALL}{without}"
        )


def install(accounting: bool) -> list[str]:
    """Install the Debian packages of what is missing; returns them.

    Raises `ClusterError` where that is not possible: no Debian, no root, no packages to be had.
    """
    if not (lacking := absent(accounting)):
        return []
    if shutil.which("apt-get") is None:
        raise ClusterError(
            "this is no Debian or Ubuntu (there is no apt-get): install munge, Slurm (with slurmdbd) and "
            f"MariaDB's server by hand. Missing: {', '.join(lacking)}"
        )
    if os.geteuid() != 0:
        raise ClusterError(f"only root installs packages: sudo {INSTALL}")
    packages = [*PACKAGES, *ACCOUNTING_PACKAGES * accounting]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        command = ["apt-get", "-qq", *arguments]
        if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
            raise ClusterError(f"`{' '.join(command)}` failed; what it said is above")
    require_programs(accounting)
    return packages


def slurm_version() -> tuple[int, int]:
    """The installed Slurm's year and month, such as (22, 5)."""
    said = subprocess.run(
        [program("slurmctld") or "", "-V"], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"(\d+)\.(\d+)", said)
    if found is None:
        raise ClusterError(f"slurmctld -V tells no version: {said!r}")
    return int(found[1]), int(found[2])


def running(pid: int) -> str | None:
    """The name of a process's program; None if there is no such process, or it is dead and not buried yet."""
    try:
        return Path(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")).name
    except OSError:
        return None


def environment_of(pid: int) -> list[str]:
    """The environment that a process was started with; empty if that cannot be known."""
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    except OSError:
        return []


def processes() -> list[int]:
    """All processes of the machine."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]


def kill(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process, unless it has ended meanwhile."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition comes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def somebody_at(address: Path | int) -> bool:
    """Whether somebody listens at a socket of the file system, or at a port of this machine."""
    if isinstance(address, int):
        family, where = socket.AF_INET, ("127.0.0.1", address)
    else:
        family, where = socket.AF_UNIX, str(address)
    with closing(socket.socket(family)) as connection:
        connection.settimeout(5)
        return connection.connect_ex(where) == 0
