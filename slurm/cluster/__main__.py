"""A real Slurm on this machine alone, to test a launcher on: no systemd, nothing outside one folder.

  python3 -m slurm.cluster install     the Debian packages that it needs (as root)
  python3 -m slurm.cluster up          start what is not running, wait until every node takes jobs
  eval "$(python3 -m slurm.cluster env)"   point sbatch, squeue and submitit to it
  python3 -m slurm.cluster status      what runs; exits with 1 if something does not
  python3 -m slurm.cluster down        cancel all jobs, stop the daemons, keep their logs

Two clusters live side by side if each has a --folder and a --port of its own.
"""

import argparse
import fcntl
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from slurm.cluster.daemons import Cluster
from slurm.cluster.files import NOTE, Settings
from slurm.cluster.host import ClusterError, install, require_programs

FOLDER = Path(tempfile.gettempdir()) / f"metabench-slurm-{os.getuid()}"
LONGEST = 70  # of the folder: a socket in it has a name of at most 107 bytes


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Raises `ClusterError`."""
    given = _parser().parse_args(arguments)
    folder = Path(os.path.abspath(given.folder))
    if given.command == "install":
        packages = install(accounting=not given.no_accounting)
        print(f"installed {' '.join(packages)}" if packages else "everything is installed already")
        return 0
    if given.command == "up":
        chosen = {
            "nodes": given.nodes,
            "port": given.port,
            "accounting": False if given.no_accounting else None,
        }
        with _made(folder, {key: value for key, value in chosen.items() if value is not None}) as cluster:
            cluster.up()
        print(cluster.ask("sinfo"))
        print(f"Your shell and its jobs find it after: {_export(cluster)}")
        return 0
    cluster = _found(folder)
    if given.command == "status":
        return _status(cluster)
    if given.command == "down":
        with _locked(folder):
            cluster.down()
        print(f"nothing of the cluster is left but its logs in {folder}")
    else:
        print(_export(cluster))
    return 0


def _export(cluster: Cluster) -> str:
    return f"export SLURM_CONF={shlex.quote(str(cluster.configuration))}"


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python3 -m slurm.cluster", description=__doc__, formatter_class=form)
    parser.add_argument("command", choices=("install", "up", "env", "status", "down"))
    parser.add_argument("--folder", default=FOLDER, help=f"where all its files lie (default {FOLDER})")
    parser.add_argument("--nodes", type=int, choices=range(1, 65), metavar="N", help="up: nodes (default 4)")
    parser.add_argument("--port", type=int, metavar="P", help="up: P to P + N + 1 (default P 16800)")
    help_text = "install, up: without slurmdbd and MariaDB, so that sacct knows nothing"
    parser.add_argument("--no-accounting", action="store_true", help=help_text)
    return parser


def _status(cluster: Cluster) -> int:
    for name in cluster.daemons():
        pid = cluster.pid(name)
        print(f"{name:10}  {f'process {pid}' if pid else 'not running'}")
    if nodes := cluster.ask("sinfo"):
        print(nodes)
    fault = cluster.fault()
    print(fault or "every node takes jobs")
    return 1 if fault else 0


@contextmanager
def _made(folder: Path, chosen: dict[str, int]) -> Iterator[Cluster]:
    """The cluster of a folder, which becomes one if it is new or empty; locked against others.

    What is not chosen is as it is if the cluster runs, else the default.
    """
    if len(str(folder)) > LONGEST or not re.fullmatch(r"[\w./+-]+", str(folder), re.ASCII):
        raise ClusterError(
            f"{folder} cannot hold a cluster: its sockets need a path of at most {LONGEST} characters, and "
            "Slurm one of letters, digits, . _ + - only. Choose another --folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if not (folder / NOTE).exists() and any(folder.iterdir()):
            raise ClusterError(
                f"{folder} holds other files, which would be removed. Choose an empty --folder"
            )
        before = _settings(folder)
        runs = before is not None and any(map(Cluster(folder, before).pid, Cluster(folder, before).daemons()))
        now = before if before and runs else Settings()
        wanted = replace(now, **chosen)
        if runs and wanted != now:
            raise ClusterError(f"in {folder} runs a cluster of other settings, {now}. Take it down first")
        require_programs(wanted.accounting)
        (folder / NOTE).write_text(json.dumps(asdict(wanted)) + "\n")
        yield Cluster(folder, wanted)


def _found(folder: Path) -> Cluster:
    """The cluster that was made in a folder."""
    settings = _settings(folder)
    if settings is None:
        raise ClusterError(f"there is no cluster in {folder}. `up` makes one; --folder names another place")
    return Cluster(folder, settings)


def _settings(folder: Path) -> Settings | None:
    try:
        return Settings(**json.loads((folder / NOTE).read_text()))
    except FileNotFoundError:
        return None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ClusterError as error:
        sys.exit(f"slurm.cluster: {error}")
