"""Profiles: what they mean, and that every fault is named with its file, its line and what is allowed."""

import re
from pathlib import Path

import pytest

from bench.errors import UsageError
from slurm import profile
from slurm.profile import Profile

CONFIGURATION = Path(profile.__file__).parent / "cluster" / "slurm.conf.in"
GOOD = """\
minutes = 60
memory_gb = 4
most_memory_gb = 180
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> str:
    """The error for this text, without the file's name that it begins with."""
    path = written(folder, text)
    with pytest.raises(UsageError) as caught:
        profile.load(path)
    assert str(caught.value).startswith(f"{path}:")
    return str(caught.value).removeprefix(f"{path}:").strip()


def test_defaults(tmp_path):
    made = profile.load(written(tmp_path, GOOD))
    assert made == Profile("mine", minutes=60.0, memory_gb=4.0, most_memory_gb=180.0)
    assert (made.partition, made.account, made.qos, made.constraint) == (None, None, None, None)
    assert (made.cpus_per_worker, made.gpus_per_worker, made.requeue) == (1, 0, True)
    assert (made.setup, made.extra) == ((), {})


def test_everything_is_read(tmp_path):
    text = """\
partition = "cpu,long"
account = "group"
qos = "normal"
constraint = "avx512&ib"
minutes = 90.5
memory_gb = 2
most_memory_gb = 64
cpus_per_worker = 2
gpus_per_worker = 1
array_parallelism = 10
requeue = false
grace_seconds = 30
setup = ["module load python", "export A='b c'"]

[extra]
exclude = "n[1-3]"
exclusive = true
nice = 100
cpu_freq = "high"
"""
    assert profile.load(written(tmp_path, text)) == Profile(
        name="mine",
        partition="cpu,long",
        account="group",
        qos="normal",
        constraint="avx512&ib",
        minutes=90.5,
        memory_gb=2.0,
        most_memory_gb=64.0,
        cpus_per_worker=2,
        gpus_per_worker=1,
        array_parallelism=10,
        requeue=False,
        grace_seconds=30.0,
        setup=("module load python", "export A='b c'"),
        extra={"exclude": "n[1-3]", "exclusive": True, "nice": 100, "cpu_freq": "high"},
    )


def test_one_line_of_setup_needs_no_list(tmp_path):
    assert profile.load(written(tmp_path, GOOD + 'setup = "module load a"\n')).setup == ("module load a",)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("partiton = 'cpu'", "4: unknown key of a profile 'partiton'; did you mean 'partition'?"),
        ("partition = 3", "4: partition = 3 is not possible; allowed: a name that the cluster knows"),
        ("account = ' '", "4: account = ' ' is not possible"),
        ('qos = "a\\nb"', "4: qos = 'a\\nb' is not possible"),
        ("cpus_per_worker = 0", "4: cpus_per_worker = 0 is not possible; allowed: a whole number, 1 or more"),
        (
            "gpus_per_worker = true",
            "4: gpus_per_worker = True is not possible; allowed: a whole number, 0 or",
        ),
        ("array_parallelism = 2.0", "4: array_parallelism = 2.0 is not possible"),
        ("requeue = 'yes'", "4: requeue = 'yes' is not possible; allowed: true, false"),
        ("grace_seconds = 0", "4: grace_seconds = 0 is not possible; allowed: a number from 1 to 65535"),
        (
            "grace_seconds = 3600",
            "4: grace_seconds = 3600.0 is not possible; allowed: less than the job's time",
        ),
        ("setup = ['a', '']", "4: setup = '' is not possible; allowed: one line of shell"),
        ('setup = [\n"a",\n"b\\nc"]', "6: setup = 'b\\nc' is not possible"),
        (
            "extra = 'exclusive'",
            "4: extra = 'exclusive' is not possible; allowed: a table of sbatch's options",
        ),
        ("[extra]\nmem = '4G'", "5: 'mem' is set by metabench itself; write memory_gb above [extra]"),
        (
            "grace_seconds = 65536",
            "4: grace_seconds = 65536 is not possible; allowed: a number from 1 to 65535",
        ),
        ("[extra]\nexport = 'NONE'", "5: 'export' is set by metabench itself; leave it out"),
        ("[extra]\narray = '0-3'", "5: 'array' is set by metabench itself; leave it out"),
        (
            "[extra]\ncpus_per_task = 3",
            "5: 'cpus_per_task' is set by metabench itself; write cpus_per_worker",
        ),
        ("[extra]\n--exclude = 'n1'", "5: '--exclude' is no long option of sbatch; write it without dashes"),
        ("[extra]\nnice = 1.5", "5: nice = 1.5 is not possible; allowed: a text, a whole number, or true"),
        ("[extra]\nexclusive = false", "5: exclusive = False is not possible"),
        ("minutes = ", "4: this is not valid TOML"),
    ],
)
def test_faults_name_line_and_cure(tmp_path, line, says):
    assert refused(tmp_path, GOOD + line + "\n").startswith(says)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (
            "minutes = 60",
            "minutes = 0.5",
            "1: minutes = 0.5 is not possible; allowed: a number from 1 to 527040",
        ),
        ("minutes = 60", "minutes = nan", "1: minutes = nan is not possible"),
        ("minutes = 60", "minutes = '1:00'", "1: minutes = '1:00' is not possible"),
        (
            "minutes = 60",
            "minutes = 1",
            "1: grace_seconds = 60.0 is not possible; allowed: less than the job's",
        ),
        (
            "memory_gb = 4",
            "memory_gb = 200",
            "2: memory_gb = 200 is not possible; allowed: at most most_memory_gb",
        ),
        (
            "most_memory_gb = 180",
            "most_memory_gb = 0.1",
            "3: most_memory_gb = 0.1 is not possible; allowed: at least 1.3: 0.5 GB of a job are its own",
        ),
        ("memory_gb = 4", "", "a profile has memory_gb; write for example memory_gb = 4"),
        ("minutes = 60", "", "a profile has minutes; write for example minutes = 60"),
    ],
)
def test_faults_of_the_required_keys(tmp_path, before, after, says):
    assert refused(tmp_path, GOOD.replace(before, after, 1)).startswith(says)


def test_profiles_that_do_not_exist(tmp_path):
    with pytest.raises(UsageError, match="unknown profile 'tets'; did you mean 'test'"):
        profile.load("tets")
    with pytest.raises(UsageError, match="there is no profile file"):
        profile.load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"partition = '\xff'")
    with pytest.raises(UsageError, match="cannot be read as a profile"):
        profile.load(tmp_path / "latin.toml")


def test_shipped_profiles():
    assert set(profile.shipped()) == {"test", "cpu", "gpu"}
    loaded = {name: profile.load(name) for name in profile.shipped()}
    assert loaded["test"].partition == "low"
    (low,) = re.findall(r"^PartitionName=low .*GraceTime=(\d+)", CONFIGURATION.read_text(), re.MULTILINE)
    assert loaded["test"].grace_seconds == float(low)  # of a preempted job Slurm waits no longer
    assert (loaded["cpu"].gpus_per_worker, loaded["gpu"].gpus_per_worker) == (0, 1)


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_lines_that_a_shipped_profile_offers_are_right(tmp_path, name):
    """Without their comment signs, all of them."""
    lines = profile.shipped()[name].read_text().splitlines()
    offered = [line.removeprefix("# ") for line in lines if " = " in line or line.startswith("# [")]
    made = profile.load(written(tmp_path, "\n".join(offered)))
    assert made.account == "my-project"
    assert made.setup
