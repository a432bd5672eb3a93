"""The daemons of one cluster: started, found again by their pid files, and stopped."""

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from slurm.cluster import files
from slurm.cluster.files import Settings
from slurm.cluster.host import (
    ClusterError,
    environment_of,
    kill,
    processes,
    program,
    running,
    somebody_at,
    wait_until,
)

PATIENCE_S = 60.0
GENTLY_S, FIRMLY_S = 15.0, 5.0  # to end after SIGTERM, after SIGKILL
TAKES_JOBS = re.compile(r"\w+=(idle|mixed|allocated|completing|planned)")  # an asterisk after it: no answer


class Cluster:
    """The daemons of one folder. Each has a pid file and a log there, and the folder's SLURM_CONF."""

    def __init__(self, folder: Path, settings: Settings):
        self.folder, self.settings = folder, settings
        self.configuration = folder / "slurm.conf"
        # Both are all that the daemons and clients need: other files are looked for beside the first.
        self._environment = os.environ | {
            "SLURM_CONF": str(self.configuration),
            "MYSQL_UNIX_PORT": f"{folder}/database/socket",
        }
        self._addresses = {
            "munged": folder / "munge.sock",
            "mariadbd": folder / "database" / "socket",
            **settings.ports(),
        }

    def daemons(self) -> dict[str, list[str]]:
        """Name -> command, in the order of their start; all stay in the foreground."""
        options = {
            "key-file": "munge.key",
            "socket": "munge.sock",
            "pid-file": "state/munged.pid",
            "seed-file": "munge.seed",
        }
        munged = [
            "munged",
            "--foreground",
            "--force",  # a private folder is no fault
            *(f"--{key}={self.folder / name}" for key, name in options.items()),
        ]
        mariadb = [*files.mariadb(self.folder), "--skip-grant-tables", "--skip-networking"]
        accounting = {"mariadbd": mariadb, "slurmdbd": ["slurmdbd", "-D"]}
        nodes = [f"n{i + 1}" for i in range(self.settings.nodes)]
        return {
            "munged": munged,
            **(accounting if self.settings.accounting else {}),
            "slurmctld": ["slurmctld", "-D"],
            **{f"slurmd.{node}": ["slurmd", "-D", "-N", node] for node in nodes},
        }

    def pid(self, name: str) -> int | None:
        """The process of a daemon, None if it does not run.

        A pid file is not believed if the process is another program, or of another cluster.
        """
        try:
            pid = int((self.folder / f"{name}.pid").read_text())
        except (OSError, ValueError):
            return None
        right = os.path.basename(os.path.realpath(program(name.partition(".")[0]) or ""))
        return pid if running(pid) == right and self._owns(pid) else None

    def up(self) -> None:
        """Start what is not running, with new files if nothing is, and wait until every node takes jobs."""
        commands = self.daemons()
        missing = [name for name in commands if self.pid(name) is None]
        for name in missing:
            port = self._addresses[name]
            if isinstance(port, int) and somebody_at(port):
                ports = self.settings.ports().values()
                raise ClusterError(
                    f"port {port} is taken, perhaps by another cluster; this one wants {min(ports)} "
                    f"to {max(ports)}. Choose others with --port"
                )
        if len(missing) == len(commands):
            self._end_orphans()
            files.make(self.folder, self.settings)
        for name in missing:
            self._start(name, commands[name])
        self._wait(lambda: self.fault() is None, lambda: str(self.fault()))

    def down(self) -> None:
        """Cancel all jobs, stop the daemons in the reverse order, remove everything but their logs."""
        if os.environ.get("SLURM_JOB_ID") and os.environ.get("SLURM_CONF") == str(self.configuration):
            raise ClusterError("this is a job of the cluster that is to be taken down; do it from outside")
        if jobs := (self.ask("squeue", "--noheader", "--format=%A") or "").split():
            self.ask("scancel", *sorted(set(jobs)))
            wait_until(lambda: not self.ask("squeue", "--noheader", "--states=R,CG,S"), GENTLY_S)
        for name in reversed(self.daemons()):
            self._stop(name)
        self._end_orphans()
        files.remove(self.folder)

    def ask(self, *command: str) -> str | None:
        """What a client of Slurm says; None if it fails or takes too long."""
        if self.pid("slurmctld") is None:
            return None  # the client would try for a long time
        try:
            answer = subprocess.run(
                command, env=self._environment, capture_output=True, text=True, timeout=20, check=False
            )
        except subprocess.TimeoutExpired:
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    def fault(self) -> str | None:
        """Why the cluster would not take jobs; None if it does."""
        if silent := [name for name in self.daemons() if self.pid(name) is None]:
            return f"not running: {', '.join(silent)}"
        nodes = self.ask("sinfo", "--noheader", "--Node", "--partition=low", "--format=%N=%T")
        if nodes is None:
            return "the controller does not answer"
        if idle := [node for node in nodes.split() if not TAKES_JOBS.fullmatch(node)]:
            return f"nodes that take no jobs: {', '.join(idle)}"
        if self.settings.accounting and self.ask("sacct") is None:
            return "accounting does not answer"
        return None

    def _start(self, name: str, command: list[str]) -> None:
        address, log = self._addresses[name], self.folder / f"{name}.log"
        if isinstance(address, Path):
            address.unlink(missing_ok=True)
        with open(log, "ab") as output:
            process = subprocess.Popen(
                [program(command[0]) or command[0], *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C here is none of its business
            )
        (self.folder / f"{name}.pid").write_text(f"{process.pid}\n")

        def ready() -> bool:
            if process.poll() is not None:
                raise ClusterError(
                    f"{name} has ended by itself, with code {process.returncode}:\n{_end_of(log)}"
                )
            return somebody_at(address)

        self._wait(ready, lambda: f"{name} does not answer:\n{_end_of(log)}")

    def _stop(self, name: str) -> None:
        for number, patience in ((signal.SIGTERM, GENTLY_S), (signal.SIGKILL, FIRMLY_S)):
            if (pid := self.pid(name)) is not None:
                kill(pid, number)
                wait_until(lambda: self.pid(name) is None, patience)

    def _wait(self, condition: Callable[[], bool], complaint: Callable[[], str]) -> None:
        if not wait_until(condition, PATIENCE_S):
            raise ClusterError(
                f"after {PATIENCE_S:g} s: {complaint()}\nLogs are in {self.folder}; `down`, then `up` again"
            )

    def _owns(self, pid: int) -> bool:
        return f"SLURM_CONF={self.configuration}" in environment_of(pid)

    def _end_orphans(self) -> None:
        """Kill what is left of jobs whose node's daemon has died before them."""

        def ended() -> bool:
            orphans = [pid for pid in processes() if self._owns(pid) and _is_of_a_job(pid)]
            for pid in orphans:
                kill(pid, signal.SIGKILL)
            return not orphans

        wait_until(ended, FIRMLY_S)


def _is_of_a_job(pid: int) -> bool:
    own = any(value.startswith("SLURM_JOB_ID=") for value in environment_of(pid))
    return own or (running(pid) or "").startswith("slurmstepd")  # Debian adds "-wlm"


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:])
