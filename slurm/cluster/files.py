"""The files of one cluster, all in one folder: settings, keys, MariaDB's tables, pretended GPUs."""

import getpass
import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from string import Template

from slurm.cluster.host import ClusterError, program, slurm_version

HERE = Path(__file__).parent
CPUS, MEMORY_MB = 2, 4096  # of every node
GPUS = ("/dev/null", "/dev/zero")  # any character device will do, and these everybody has
NOTE = "cluster.json"  # tells that a folder is a cluster's, and its settings
# Where MariaDB keeps the statements that make its own tables.
TABLES = [
    Path("/usr/share", *names)
    for names in (("mysql", "mysql_system_tables.sql"), ("mariadb", "mariadb_system_tables.sql"))
]


@dataclass(frozen=True)
class Settings:
    """What `up` can choose; kept in the folder."""

    nodes: int = 4
    port: int = 16800  # the controller's; accounting has the next one, then come the nodes'
    accounting: bool = True

    def ports(self) -> dict[str, int]:
        """The port of every daemon that has one."""
        nodes = {f"slurmd.n{i + 1}": self.port + 2 + i for i in range(self.nodes)}
        accounting = {"slurmdbd": self.port + 1} if self.accounting else {}
        return {"slurmctld": self.port, **accounting, **nodes}


def mariadb(folder: Path) -> list[str]:
    """The command of a MariaDB that is small, and in no hurry to have its data on the disk."""
    return [
        "mariadbd",
        "--no-defaults",
        f"--user={getpass.getuser()}",
        f"--datadir={folder}/database/data",
        f"--socket={folder}/database/socket",
        "--innodb-buffer-pool-size=32M",
        "--innodb-log-file-size=8M",
        "--innodb-flush-log-at-trx-commit=0",
    ]


def make(folder: Path, settings: Settings) -> None:
    """Make all files anew. Raises `ClusterError` where MariaDB cannot make its own."""
    remove(folder)
    for name in ("state", *(f"spool.n{i + 1}" for i in range(settings.nodes))):
        (folder / name).mkdir()
    _write_private(folder / "munge.key", secrets.token_bytes(1024))
    values = _values(folder, settings)
    for name in ("slurm.conf", "slurmdbd.conf"):
        template = Template((HERE / f"{name}.in").read_text())
        _write_private(folder / name, template.substitute(values).encode())
    for i, device in enumerate(GPUS):
        (folder / f"gpu{i}").symlink_to(device)
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{len(GPUS) - 1}]\n")
    if settings.accounting:
        _make_database(folder)


def remove(folder: Path) -> None:
    """Remove everything but the logs and the note of what the folder is."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.suffix != ".log" and path.name != NOTE:
            path.unlink()


def _values(folder: Path, settings: Settings) -> dict[str, object]:
    ports = settings.ports()
    accounting = ["AccountingStorageType=accounting_storage/none"]
    if settings.accounting:
        accounting = [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={ports['slurmdbd']}",
            f"AccountingStoragePass={folder}/munge.sock",  # else its clients look for munge in /run
        ]
    # A job that is preempted gets the signal that it has asked for, and not SIGTERM alone.
    preemption = "PreemptParameters=send_user_signal"
    if slurm_version() < (23, 2):
        preemption = "SlurmctldParameters=preempt_send_user_signal"
    return {
        "folder": folder,
        "user": getpass.getuser(),
        "port": settings.port,
        "accounting_port": settings.port + 1,
        "first_node_port": ports["slurmd.n1"],
        "last_node_port": ports[f"slurmd.n{settings.nodes}"],
        "nodes": settings.nodes,
        "cpus": CPUS,
        "memory": MEMORY_MB,
        "gpus": len(GPUS),
        "accounting": "\n".join(accounting),
        "preemption": preemption,
    }


def _make_database(folder: Path) -> None:
    tables = next((path for path in TABLES if path.is_file()), None)
    if tables is None:
        raise ClusterError(
            f"MariaDB's script of tables is missing ({' or '.join(map(str, TABLES))}); try --no-accounting"
        )
    database = folder / "database"
    database.mkdir(mode=0o700)  # MariaDB will ask nobody for a password
    (database / "data").mkdir()
    name, *options = mariadb(folder)
    made = subprocess.run(
        [program(name) or name, *options, "--bootstrap"],
        input=f"create database mysql;\nuse mysql;\n{tables.read_text()}",
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise ClusterError(f"MariaDB cannot make its tables in {database}:\n{made.stderr[-2000:]}")


def _write_private(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
