"""C++ sources of plugins: compiled at first use by this machine's own compiler, kept in the cache, loaded.

The compiler is `$CXX`, else c++, g++ or clang++. The library's name in the cache stands for everything that
decides what is in it: the source, the command, the compiler's version and, for `-march=native`, the CPU.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import data
from bench.api import Declined
from bench.disk import StoreError, write_whole

COMPILERS = ("c++", "g++", "clang++")
# No -ffast-math: GCC then links code that flushes subnormal numbers to zero in the whole process.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-trapping-math", "-shared", "-fPIC")
BUILD_SECONDS = 300.0
VERSION_SECONDS = 60.0
LAST_LINES = 5  # of what the compiler says

log = logging.getLogger(__name__)

_found: list[Path] = []


def compiler() -> tuple[str, ...] | None:
    """The command that compiles C++ here, None where there is none."""
    asked = tuple(shlex.split(os.environ.get("CXX", "")))
    for command in [asked] if asked else [(name,) for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    return None


def missing() -> str | None:
    """Why nothing can be compiled here, and what to do; None where it can."""
    if compiler() is not None:
        return None
    asked = os.environ.get("CXX")
    if asked:
        return f"the C++ compiler that CXX names, '{asked}', is not on the path; correct CXX or unset it"
    return f"no C++ compiler ({', '.join(COMPILERS)}) is on the path; install one, or name yours in CXX"


@lru_cache
def library(package: str, source: str) -> ctypes.CDLL:
    """The shared library made of the file ``source`` of ``package``; looked for once in a process.

    Raises `Declined` where there is no compiler, or it fails, with the last lines of what it said.
    """
    return made(source, files(package).joinpath(source).read_bytes())


def made(name: str, text: bytes, options: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The shared library made of C++ under further ``options`` of the compiler, ``name`` being the source's.

    Raises `Declined` as `library` does.
    """
    command = compiler()
    if command is None:
        raise Declined(str(missing()))
    key = hashlib.sha256(text)
    key.update(repr((command, FLAGS + options, _version(command), _cpu())).encode())
    path = data.cache_root() / f"{Path(name).stem}-{key.hexdigest()[:16]}.so"
    if path.is_file():
        try:
            if _is_whole(path.read_bytes()):
                loaded = ctypes.CDLL(str(path))
                _found.append(path)
                return loaded
            log.warning("%s is damaged; it is made again", path)
        except OSError as error:
            log.warning("%s cannot be used (%s); it is made again", path, error)
    with TemporaryDirectory() as folder:
        target = Path(folder) / path.name
        _compile(command, options, name, text, target)
        content = target.read_bytes()
        try:
            write_whole(path, content + hashlib.sha256(content).digest())
        except StoreError as error:
            log.warning("%s; %s will be compiled again next time", error, name)
            path = target  # once loaded, it needs its file no more
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:
            raise Declined(f"{name} was compiled but cannot be loaded: {error}") from error


def found_on_disk() -> int:
    """How many libraries this process has found compiled on the disk so far."""
    return len(_found)


def _is_whole(content: bytes) -> bool:
    """Whether a library in the cache ends with the digest of the rest, which no loader minds.

    One that was cut short would end the process by SIGBUS, in the middle of its use.
    """
    size = hashlib.sha256().digest_size
    return hashlib.sha256(content[:-size]).digest() == content[-size:]


def _compile(
    command: tuple[str, ...], options: tuple[str, ...], source: str, text: bytes, target: Path
) -> None:
    build = [*command, *FLAGS, "-x", "c++", "-", "-o", str(target), *options]
    name = shlex.join(command)
    try:
        done = subprocess.run(build, input=text, capture_output=True, timeout=BUILD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Declined(f"'{name}' could not compile {source}: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-LAST_LINES:]
        raise Declined(f"'{name}' could not compile {source}: " + "\n".join(said or [str(done.returncode)]))


@lru_cache
def _version(command: tuple[str, ...]) -> str:
    try:
        answer = subprocess.run(
            [*command, "--version"], capture_output=True, timeout=VERSION_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Declined(f"'{shlex.join(command)} --version' does not answer: {error}") from error
    return answer.stdout.decode(errors="replace")


@lru_cache
def _cpu() -> str:
    """Model and instruction sets of the processor, which is what `native` means."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    told = [line for line in lines if line.startswith(("model name", "flags", "CPU part", "Features"))]
    return repr((platform.machine(), platform.processor(), sorted(set(told))))
