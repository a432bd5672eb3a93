"""The doctor: its meters are tried on something known, and what is wrong decides its exit code."""

import json
from pathlib import Path

import pytest

from bench import doctor, measure, registry
from bench.cli.examination import show_examination
from bench.compiled import engine, kernel


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "ROUNDS", 2)


def test_the_meters_of_this_machine_are_not_wrong(capsys: pytest.CaptureFixture[str]):
    assert show_examination(json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["wrong"] == []
    assert found["meters"]["tensor_bytes"]["state"] == "ok"
    assert found["meters"]["resident_peak"]["state"] in ("ok", "missing")
    assert found["machine"]["usable_threads"] >= 1
    assert "omniglot" in found["data"]
    assert any("metabench-methods" in name for name in found["plugins"]["loaded"])


def test_a_meter_that_reads_wrongly_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    half = {"peak": doctor.TENSOR_BYTES // 2, "meter": "dispatch"}
    monkeypatch.setattr(measure, "tensor_bytes", lambda run, device: half)
    assert show_examination(json=False) == 1
    assert "tensor_bytes" in capsys.readouterr().err


def test_a_meter_that_is_missing_says_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "resident_missing", lambda: "no /proc here")
    assert doctor.resident_peak() == {"state": "missing", "detail": "no /proc here"}


def test_a_broken_plugin_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(registry, "load_plugins", lambda: {"toy (toys: toy)": "ImportError: no toy"})
    assert show_examination(json=False) == 1
    assert "toy (toys: toy) is broken: ImportError: no toy" in capsys.readouterr().err


def test_slurm_is_found_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.slurm() == {"found": False}
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho slurm 23.11\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    slurm = doctor.slurm()
    silent = {"found": True, "sbatch": str(sbatch), "version": "slurm 23.11", "inside_job": "7"}
    assert slurm.pop("controller").startswith("does not answer: ")
    assert slurm == silent
    for code, said in (0, "ctl at here is UP"), (1, "does not answer: ctl at here is UP"):
        ping = tmp_path / "scontrol"
        ping.write_text(f"#!/bin/sh\necho 'ctl at here is UP'; exit {code}\n")
        ping.chmod(0o755)
        assert doctor.slurm()["controller"] == said


@pytest.mark.parametrize(("measured", "state"), [(100, "ok"), (109, "ok"), (112, "wrong"), (0, "wrong")])
def test_judge(measured: int, state: str):
    assert doctor.judge(measured, 100, 0.1)["state"] == state


def test_without_a_compiler_no_problem_is_said_to_be_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def refuse(*_: object) -> None:
        raise RuntimeError("no working compiler")

    monkeypatch.setattr(kernel, "_compiled", refuse)
    monkeypatch.setattr(engine, "_kernels", {})
    found = doctor.compiled_kernels()
    assert found["compiler"] == "does not work: RuntimeError: no working compiler"
    assert found["sinusoid"] == "its loss can be traced, but nothing is compiled here"
    assert not any("can be compiled" in said for said in found.values())
    monkeypatch.setenv("CXX", str(tmp_path / "nothing"))
    assert "correct CXX or unset it" in doctor.compiled_kernels()["compiler"]


def test_a_slurm_that_fails_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\nprintf 'error: no host\\nfatal: no config\\n' >&2\nexit 1\n")
    sbatch.chmod(0o755)
    assert doctor.slurm()["version"] == "does not work: error: no host"
