"""C++ of plugins: compiled once, kept in the cache, and a reason where that does not work."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from bench import native
from bench.api import Declined
from bench.registry import build, unavailable

needs_a_compiler = pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch) -> Path:
    """A package with one source, and a cache of its own."""
    package = tmp_path / "toy_native"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "two.cpp").write_text('extern "C" int two() { return 2; }\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_native", raising=False)
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "cache"))
    native.library.cache_clear()
    yield package
    native.library.cache_clear()


def fake(folder: Path, body: str) -> str:
    """A compiler that is a shell script."""
    path = folder / "fake-c++"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@needs_a_compiler
def test_compiled_once_and_again_for_another_source(toy: Path, tmp_path: Path) -> None:
    assert native.library("toy_native", "two.cpp").two() == 2
    (made,) = (tmp_path / "cache").iterdir()
    before = made.stat().st_mtime_ns
    native.library.cache_clear()
    assert native.library("toy_native", "two.cpp").two() == 2
    assert made.stat().st_mtime_ns == before
    (toy / "two.cpp").write_text('extern "C" int two() { return 3; }\n')
    native.library.cache_clear()
    assert native.library("toy_native", "two.cpp").two() == 3
    assert len(list((tmp_path / "cache").iterdir())) == 2


@needs_a_compiler
def test_processes_may_compile_the_same_at_once(toy: Path, tmp_path: Path) -> None:
    code = "from bench import native; assert native.library('toy_native', 'two.cpp').two() == 2"
    racers = [subprocess.Popen([sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"])
              for _ in range(3)]  # fmt: skip
    assert [racer.wait(timeout=120) for racer in racers] == [0, 0, 0]
    (made,) = (tmp_path / "cache").iterdir()
    assert made.suffix == ".so"


@needs_a_compiler
@pytest.mark.parametrize("damage", [lambda _: b"no library", lambda whole: whole[:-1000], lambda _: b""])
def test_a_damaged_library_is_made_again(tmp_path: Path, monkeypatch, caplog, damage) -> None:
    native.library("toy_native", "two.cpp")
    (found,) = (tmp_path / "cache").iterdir()
    made = tmp_path / "other" / found.name  # a path that nothing is loaded from yet
    made.parent.mkdir()
    made.write_bytes(damage(found.read_bytes()))
    monkeypatch.setenv("METABENCH_CACHE", str(made.parent))
    native.library.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert native.library("toy_native", "two.cpp").two() == 2
    assert "made again" in caplog.text
    assert made.stat().st_size > 1000


@needs_a_compiler
def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, caplog) -> None:
    (tmp_path / "cache").write_text("a file where a folder is needed")
    with caplog.at_level(logging.WARNING):
        assert native.library("toy_native", "two.cpp").two() == 2
    assert "next time" in caplog.text


@needs_a_compiler
def test_a_source_that_does_not_compile_is_declined_with_what_the_compiler_says(toy: Path) -> None:
    (toy / "two.cpp").write_text("no C++ at all\n")
    with pytest.raises(Declined, match=r"could not compile two\.cpp.*\n?.*error"):
        native.library("toy_native", "two.cpp")


def test_only_the_last_lines_of_a_compiler_are_told(tmp_path: Path, monkeypatch) -> None:
    body = '[ "$1" = --version ] && exit 0; seq 1 100 >&2; exit 1'
    monkeypatch.setenv("CXX", fake(tmp_path, body))
    with pytest.raises(Declined) as declined:
        native.library("toy_native", "two.cpp")
    assert str(declined.value).endswith("two.cpp: 96\n97\n98\n99\n100")


def test_a_compiler_that_hangs_is_ended(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CXX", fake(tmp_path, '[ "$1" = --version ] && exit 0; exec sleep 60'))
    monkeypatch.setattr(native, "BUILD_SECONDS", 0.2)
    with pytest.raises(Declined, match=r"timed out after 0\.2"):
        native.library("toy_native", "two.cpp")


def test_cxx_may_hold_a_command_with_options(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CXX", fake(tmp_path, "true") + " -one 'two three'")
    assert native.compiler() == (str(tmp_path / "fake-c++"), "-one", "two three")


@pytest.mark.parametrize(("cxx", "said"), [("", "install one"), ("no-such-c++", "names, 'no-such-c\\+\\+'")])
def test_without_a_compiler_methods_are_unavailable(tmp_path: Path, monkeypatch, cxx: str, said: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(Declined, match=said):
        native.library("toy_native", "two.cpp")
    assert unavailable(build("method", "maml-cpp")) == native.missing()
