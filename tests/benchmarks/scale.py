"""How the store and what reads it grow with the cells of a study: a Markdown table, on one core.

    python tests/benchmarks/scale.py [--folder DIR] [--cells 1000 10000 100000]

The records are synthetic: those of a reference study under other ids, with other digits in their numbers, so
that they are as long as real ones and compress as badly. Two in a hundred are failures, and all ask for
compiled kernels, which `status` looks into. Every step is a process of its own; the verbs of the command line
are taken with their start (torch, plugins). Seconds are of the CPU, which a busy machine and its disk do not
alter; those on the wall are of the largest study.
"""

import argparse
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
STUDY = """
question = "How do the tools grow?"
seeds = {seeds}
engine = "compiled"
problem = {{name = "linear_regression", condition = [6.0, 100.0]}}
inner = {{name = "gradient_descent", steps = [1, 2, 5, 10, 20], learning_rate = 0.005}}
[[method]]
name = ["maml", "fomaml"]
[[method]]
name = "imaml"
linear = {{name = "conjugate_gradient", iterations = [1, 2, 3, 4, 5, 6, 8, 10]}}
"""
CELLS_A_SEED = 100
DIGITS = re.compile(rb"(?<=\d)\d{9}(?=[\n,e])")
CELL = {"problem": {}, "method": {}}  # in place of a description, until there is one
IN_PYTHON = """
import time
from bench import spec
from bench.cells import expand
from bench.record import Store
start = time.process_time()
{}
print(time.process_time() - start)
"""
EXPAND, IDS = "expand(spec.load('scale/scale.toml'))", "Store('.', 'scale').ids()"
# In this order: name, and the statement or the verb.
STEPS = [
    ("`expand`", EXPAND),
    ("`Store.ids`, loose files", IDS),
    ("`metabench plan`, loose files", ["plan"]),
    ("`metabench status`, loose files", ["status"]),
    ("`metabench verify`, loose files", ["verify"]),
    ("`metabench compact`", ["compact"]),
    ("`metabench compact` again", ["compact"]),
    ("`Store.ids`, parts", IDS),
    ("`metabench plan`, parts", ["plan"]),
    ("`metabench status`, parts", ["status"]),
    ("`metabench verify`, parts", ["verify"]),
    ("`metabench export`, csv", ["export", "--format", "csv"]),
    ("`metabench export`, json", ["export", "--format", "json"]),
]


class Cost(NamedTuple):
    """Seconds of the CPU and on the wall, and the peak of resident memory in MiB."""

    cpu: float
    wall: float
    memory: float


def make(folder: Path, cells: int) -> int:
    """Write a study and its loose records; returns their bytes."""
    sys.path.insert(0, str(ROOT))
    from bench import spec
    from bench.cells import expand
    from bench.record import Store, unmeasured
    from bench.record.form import text_of

    records = folder / "scale" / "records"
    records.mkdir(parents=True)
    file = folder / "scale" / "scale.toml"
    file.write_text(STUDY.format(seeds=cells // CELLS_A_SEED))
    real = [
        r for r in Store(ROOT / "results/reference", "accuracy_vs_steps").records() if r["status"] == "ok"
    ]
    templates = [
        text_of(r | {"id": "0" * 16, "cell": CELL, "study": "scale"}) for r in real[:: len(real) // 50]
    ]
    reason = {"message": "singular matrix", "type": "LinAlgError", "traceback": "a line\n" * 60}
    failure = text_of(unmeasured("scale", "0" * 16, CELL, "error", reason, 1.0))
    rng, size = random.Random(0), 0
    for cell in expand(spec.load(file)):
        text = failure if rng.random() < 0.02 else rng.choice(templates)
        text = DIGITS.sub(lambda _: b"%09d" % rng.randrange(10**9), text)
        text = text.replace(b"0" * 16, cell.id.encode(), 1).replace(
            _indented(CELL), _indented(cell.description), 1
        )
        (records / f"{cell.id}.json").write_bytes(text)
        size += len(text)
    return size


def _indented(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1).replace("\n", "\n ").encode()


def run(step: str | list[str], folder: Path) -> Cost:
    """Time one step in a process of its own."""
    if isinstance(step, str):
        command = [sys.executable, "-c", IN_PYTHON.format(step)]
    else:
        command = [sys.executable, "-m", "bench.cli", step[0], "scale", *step[1:], "--results", "."]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):  # 1: the study has failures
        raise SystemExit(f"{command} ended with {process.returncode}")
    cpu = float(output) if isinstance(step, str) else usage.ru_utime + usage.ru_stime
    return Cost(cpu, seconds, usage.ru_maxrss / 1024)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, help="where the stores are made; default: the temporary folder"
    )
    parser.add_argument("--cells", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--only-make", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_make:  # a process of its own, so that its memory is not inherited
        print(make(options.folder, *options.cells))
        return
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    costs: list[list[Cost]] = []
    sizes = []
    for cells in options.cells:
        folder = Path(tempfile.mkdtemp(dir=options.folder))
        try:
            making = [sys.executable, __file__, "--only-make", "--folder", folder, "--cells", str(cells)]
            loose = int(subprocess.run(making, stdout=subprocess.PIPE, check=True).stdout)
            costs.append([run(step, folder) for _, step in STEPS])
            parts = list((folder / "scale").glob("records*.parquet"))
            compacted = sum(path.stat().st_size for path in parts)
            sizes.append(
                f"{cells:,} records: {loose / 1e6:.3g} MB loose, {compacted / 1e6:.3g} MB in {len(parts)}"
            )
        finally:
            shutil.rmtree(folder)
        print(sizes[-1], file=sys.stderr)
    print(*table(options.cells, costs), *sizes, sep="\n")


def table(cells: list[int], costs: list[list[Cost]]) -> list[str]:
    """CPU seconds of every step; how the last ones grow; the last one's seconds on the wall and memory."""
    lines = [
        "| CPU seconds for cells | "
        + " | ".join(f"{n:,}" for n in cells)
        + " | grows as | wall, s | peak MiB |"
    ]
    lines.append("|---" * (len(cells) + 4) + "|")
    for i, (name, _) in enumerate(STEPS):
        row = [of_cells[i] for of_cells in costs]
        growth = "-"
        if len(cells) > 1:
            exponent = math.log(row[-1].cpu / row[-2].cpu) / math.log(cells[-1] / cells[-2])
            growth = f"n^{exponent:.2f}"
        seconds = " | ".join(f"{cost.cpu:.3g}" for cost in row)
        wall = "" if name.startswith(("`expand", "`Store")) else f"{row[-1].wall:.3g}"
        lines.append(f"| {name} | {seconds} | {growth} | {wall} | {row[-1].memory:.0f} |")
    return lines


if __name__ == "__main__":
    main()
