"""What this machine is, and which meters work on it: each is tried on something of known size."""

import os
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from bench import data, measure, native, registry
from bench.api import Bilevel, Declined
from bench.compiled import Engine, untraceable
from bench.run import environment, gpu

PACKAGES = ("metabench", "torch", "numpy", "scipy", "pandas", "pyarrow", "matplotlib", "higher", "submitit")
DEVELOPMENT = ("beartype", "pyright", "pytest", "ruff")
TENSOR_BYTES = 1 << 20
RESIDENT_BYTES = 1 << 26  # far above what the interpreter needs meanwhile
ROUNDS = 10
MIB, GIB = 1 << 20, 1 << 30
SMALL = "linear_regression"  # its kernels compile in a second or two
BUSY = 0.5  # load per core above which timings are noisy


def examine() -> dict[str, Any]:
    """Everything the doctor knows, by topic, and ``wrong``, what needs repair; JSON types only."""
    meters = {"clock": clock("cpu"), "tensor_bytes": tensor_bytes("cpu"), "resident_peak": resident_peak()}
    if torch.cuda.is_available():
        meters |= {"clock_cuda": clock("cuda"), "tensor_bytes_cuda": tensor_bytes("cuda")}
    known = plugins()
    wrong = [
        f"the meter {name} is wrong: {m['detail']}" for name, m in meters.items() if m["state"] == "wrong"
    ]
    wrong += [f"plugin {name} is broken: {reason}" for name, reason in known["broken"].items()]
    return {
        "machine": _machine(),
        "torch": _torch(),
        "meters": meters,
        "data": {name: _found(state) for name, state in data.status().items()},
        "cache": {"folder": str(data.cache_root()), "size": f"{_size(data.cache_root()) / MIB:.1f} MiB"},
        "compiled_kernels": compiled_kernels(),
        "slurm": slurm(),
        "plugins": known,
        "packages": {name: _version(name) for name in (*PACKAGES, *DEVELOPMENT)},
        "wrong": wrong,
    }


def judge(measured: int, expected: int, tolerance: float = 0.0) -> dict[str, str]:
    """A meter's state after reading ``measured`` where ``expected`` bytes were made: "ok" or "wrong"."""
    right = abs(measured - expected) <= tolerance * expected
    return {
        "state": "ok" if right else "wrong",
        "detail": f"reads {measured / MIB:.2f} MiB where {expected / MIB:.2f} are made",
    }


def clock(device: str) -> dict[str, Any]:
    """A clock's resolution, and its noise: the same work timed against itself, as studies time methods."""
    a = torch.ones(200, 200, device=device)
    times = measure.time_interleaved(lambda: a @ a, lambda: a @ a, ROUNDS, a.device)
    ratio = median(x / y for x, y in zip(times["samples_s"], times["reference_s"], strict=True))
    itself = f"a matrix product takes {ratio:.3g} times as long as itself"
    return {"state": "ok", "detail": f"{_step() if device == 'cpu' else 'events of CUDA'}; {itself}"}


def _step() -> str:
    steps = []
    for _ in range(100):
        start = time.perf_counter()
        while (now := time.perf_counter()) == start:
            pass
        steps.append(now - start)
    return f"perf_counter steps by {1e9 * median(steps):.3g} ns"


def tensor_bytes(device: str) -> dict[str, Any]:
    """The meter of tensor storages, tried on one tensor of known size."""
    made = measure.tensor_bytes(
        lambda: torch.zeros(TENSOR_BYTES, dtype=torch.uint8, device=device), torch.device(device)
    )
    return judge(made["peak"], TENSOR_BYTES)


def resident_peak() -> dict[str, Any]:
    """The meter of the resident peak, tried on one large tensor in this process; or why there is none."""
    missing = measure.resident_missing()
    if missing:
        return {"state": "missing", "detail": missing}
    made = measure.resident_here(lambda: torch.ones(RESIDENT_BYTES, dtype=torch.uint8))
    return judge(made["growth_bytes"], RESIDENT_BYTES, 0.1)


def _machine() -> dict[str, Any]:
    known = environment()
    memory = psutil.virtual_memory()
    load = psutil.getloadavg()[0]
    cores = (
        len(psutil.Process().cpu_affinity())
        if hasattr(psutil.Process, "cpu_affinity")
        else os.cpu_count() or 1
    )
    return {
        "platform": known["platform"],
        "cpu": known["cpu"],
        "cores": psutil.cpu_count(logical=False),
        "usable_threads": cores,
        "load": f"{load:.1f}" + (" (busy: times will be noisy)" if load > BUSY * cores else ""),
        "memory": f"{memory.total / GIB:.1f} GiB",
        "memory_free": f"{memory.available / GIB:.1f} GiB",
        "python": known["python"],
    }


def _torch() -> dict[str, Any]:
    devices = {}
    for i in range(torch.cuda.device_count()):
        known, (free, whole) = gpu(torch.device("cuda", i)), torch.cuda.mem_get_info(i)
        devices[f"cuda:{i}"] = (
            f"{known['gpu']}, {whole / GIB:.1f} GiB ({free / GIB:.1f} free), "
            f"driver {known['gpu_driver'] or 'unknown'}, cuDNN {known['cudnn'] or 'not there'}"
        )
    return {
        "version": torch.__version__,
        "built_for": f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU",
        "cuda": torch.cuda.is_available(),
        **devices,
        "threads": torch.get_num_threads(),
        "mkl": torch.backends.mkl.is_available(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _found(status: data.Status) -> dict[str, Any]:
    found = "found" if status["found"] else "missing"
    return {"state": found, "where": status["where"], "what_to_do": status["what_to_do"]}


def compiled_kernels() -> dict[str, str]:
    """Whether this machine compiles kernels, tried on a small one, and which problems' losses can be traced.

    Compiled cells of a problem whose loss cannot be traced run in eager mode, for the reason that is shown.
    """
    found = {"compiler": _kernel("cpu")}
    works = found["compiler"].startswith("works")
    if torch.cuda.is_available():
        found["compiler_cuda"] = _kernel("cuda")
    traced = "can be compiled" if works else "its loss can be traced, but nothing is compiled here"
    for name in registry.names("problem"):
        try:
            reason = untraceable(_one_task(name))
            found[name] = traced if reason is None else f"stays in eager mode: {reason}"
        except Declined:
            found[name] = "not tried: its data are not on this machine"
        except Exception as error:  # noqa: BLE001  a plugin may raise anything
            found[name] = f"not tried: {type(error).__name__}: {error}"
    return found


def _kernel(device: str) -> str:
    engine = Engine()
    bilevel = _one_task(SMALL, device, engine)
    bilevel.inner_grad(bilevel.start)
    (kernel,) = engine.report().values()
    if "eager" in kernel:
        return f"does not work: {(device == 'cpu' and native.missing()) or kernel['eager']}"
    how = "by torch" if kernel["lowering"] == "torch" else kernel["lowering"]
    return f"works: a kernel, {how}, in {kernel['seconds']:.1f} s, {kernel['error']:.1g} from float64"


def _one_task(problem: str, device: str = "cpu", engine: Engine | None = None) -> Bilevel:
    built = registry.build("problem", problem)
    generator = torch.Generator().manual_seed(0)
    meta, tasks = built.init(generator), built.sample(generator, 1)
    return Bilevel(built, tasks.to(torch.float32, device), meta.to(device, torch.float32), engine=engine)


def slurm() -> dict[str, Any]:
    """Whether Slurm's sbatch is on the path, and what it and the controller say."""
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        return {"found": False}
    (works, said), (answers, pinged) = _said(sbatch, "--version"), _said("scontrol", "ping")
    return {
        "found": True,
        "sbatch": sbatch,
        "version": said.partition("\n")[0] if works else f"does not work: {said.partition(chr(10))[0]}",
        "controller": pinged if answers else f"does not answer: {pinged.rpartition(chr(10))[2]}",
        "inside_job": os.environ.get("SLURM_JOB_ID"),
    }


def _said(*command: str) -> tuple[bool, str]:
    """Whether a command succeeds, and what it says."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    return answer.returncode == 0, (answer.stdout or answer.stderr).strip()


def plugins() -> dict[str, Any]:
    """The entry points that were loaded, and those that are broken with their reason."""
    broken = registry.load_plugins()
    points = entry_points(group=registry.ENTRY_POINT_GROUP)
    return {
        "loaded": sorted(
            f"{p.name} ({p.dist.name} {p.dist.version})" if p.dist else p.name
            for p in points
            if not any(name.startswith(f"{p.name} (") for name in broken)
        ),
        "broken": broken,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
