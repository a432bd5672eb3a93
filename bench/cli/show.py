"""`metabench show`: one record, readable."""

import shlex
from pathlib import Path
from statistics import median
from typing import Any

from bench.cli.assumptions import assumption_lines
from bench.cli.certified import certified_lines
from bench.cli.kernels import kernel_lines
from bench.cli.label import flat
from bench.cli.learning import curve_lines, file_lines, test_lines
from bench.cli.standing import FINE
from bench.cli.text import columns, duration, number, say, say_json, size
from bench.errors import UsageError
from bench.gate import restless
from bench.record import engine_of, find
from bench.spec import shipped

SHOWN_TASKS = 8
DIGITS = 4


def show_record(prefix: str, results: Path, study: str | None, json: bool) -> None:
    """Print the record whose id begins with ``prefix``; `UsageError` if there is none or more than one."""
    found = [(name, r) for name, r in find(results, prefix.lower()) if study in (None, name)]
    if not found:
        where = f"of study {study} " if study else ""
        raise UsageError(
            f"no record {where}under {results} has an id that begins with '{prefix}'; "
            "`metabench plan STUDY --cells` lists the cells of a study, --results DIR looks elsewhere"
        )
    if len(found) > 1:
        listed = "\n".join(f"  {record['id']} of {name}" for name, record in found[:20])
        raise UsageError(
            f"{len(found)} records begin with '{prefix}'; give more of the id, or --study NAME:\n{listed}"
        )
    name, record = found[0]
    again = rerun(name, record["id"], results)
    if json:
        say_json(record | {"run_again": again})
        return
    say(
        f"{record['id']}  {name}  {record['status']}",
        style="bold" if record["status"] in FINE else "bold red",
    )
    say(f"started {record['started']}, took {duration(record['seconds'])}; to run it again:")
    say(f"  {again}")
    for title, lines in _sections(record, results / name):
        if lines:
            say()
            say(title, style="bold")
            for line in lines:
                say(line)


def rerun(study: str, cell: str, results: Path) -> str:
    """The command that runs one stored cell again."""
    where = [] if results == Path("results") else ["--results", str(results)]
    if study not in shipped():
        study = str(results / study / f"{study}.toml")  # the copy that `metabench run` keeps
    return shlex.join(["metabench", "run", study, *where, "--cell", cell, "--force"])


def _sections(record: dict[str, Any], folder: Path) -> list[tuple[str, list[str]]]:
    accuracy, training = record.get("accuracy"), record.get("train")
    return [
        ("why it is not ok", _reason(record)),
        ("settings", columns((k, _words(v)) for k, v in sorted(flat(_settings(record)).items(), key=_place))),
        ("learning curve, means with 95 % intervals", curve_lines(training) if training else []),
        ("test, means with 95 % intervals", test_lines(training) if training else []),
        ("trained meta-parameters", file_lines(folder, record)),
        ("per task", _tasks(accuracy) if accuracy else []),
        ("numerics per task", _numerics(record.get("numerics") or {})),
        ("assumptions, violated at", assumption_lines(record.get("assumptions") or {})),
        ("switches per task", _switches(record.get("switches") or {})),
        ("references", _references(accuracy) if accuracy else []),
        ("certified", certified_lines(record["certified"]) if record.get("certified") else []),
        ("cost", _cost(record)),
        ("compiled kernels", kernel_lines(record.get("engine") or {})),
        ("seconds per pass", columns((k, number(v)) for k, v in (record.get("pass_seconds") or {}).items())),
        ("environment", columns(flat(record.get("environment") or {}).items())),
    ]


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    """The cell's, its engine as it really was."""
    cell = record["cell"]
    return cell | {"engine": engine_of(record)} if "engine" in cell else cell


def _words(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _place(setting: tuple[str, Any]) -> tuple[bool, bool, str]:
    """Problem and method first, and of every plugin its name."""
    key = setting[0]
    return not key.startswith("problem."), not key.startswith("method."), key.removesuffix("name")


def _reason(record: dict[str, Any]) -> list[str]:
    reason = record["reason"]
    if not reason:
        return []
    lines = [f"{reason.get('type') or record['status']}: {reason['message']}", reason.get("traceback") or ""]
    return [f"  {line}" for text in lines for line in text.splitlines()]


def _tasks(accuracy: dict[str, Any]) -> list[str]:
    """A table of metrics: median over tasks, then the tasks themselves where they are few."""
    metrics: dict[str, list[Any]] = {}
    for name, reference in accuracy["references"].items():
        for key in ("relative_error", "cosine", "norm_ratio"):
            if reference.get(key):
                metrics[f"{key} to {name}"] = reference[key]
    metrics |= {k: v for k, v in accuracy["adapted"].items() if v}
    metrics |= accuracy["stats"]
    metrics |= {key: accuracy[key] for key in ("meta_grad_norm", "converged")}
    return _per_task(metrics)


def _numerics(numerics: dict[str, Any]) -> list[str]:
    if not numerics:
        return []
    return columns(numerics.items()) if "missing" in numerics else _per_task(numerics)


def _switches(found: dict[str, Any]) -> list[str]:
    if not found:
        return []
    by_distance = zip(found["distances"], zip(*found["mismatch"], strict=True), strict=True)
    mismatch = {f"mismatch at {h:g}": list(row) for h, row in by_distance}
    return _per_task(mismatch | {name: found[name] for name in ("jump", "growth")})


def _per_task(metrics: dict[str, list[Any]]) -> list[str]:
    shown = min(max((len(row) for row in metrics.values()), default=0), SHOWN_TASKS)
    table = [("", "median", *(f"task {i}" for i in range(shown)))]
    for name, row in metrics.items():
        known = [v for v in row if v is not None]
        middle = number(median(known), DIGITS) if known and not isinstance(known[0], bool) else ""
        cells = ("yes" if v is True else "no" if v is False else number(v, DIGITS) for v in row[:shown])
        table.append((name, middle, *cells))
    return columns(table)


def _references(accuracy: dict[str, Any]) -> list[str]:
    lines = []
    for name, reference in accuracy["references"].items():
        lines.append(
            (name, f"missing: {reference['missing']}" if "missing" in reference else reference["how"])
        )
        tasks: dict[str, list[str]] = {}
        for task, reason in (reference.get("missing_tasks") or {}).items():
            tasks.setdefault(reason, []).append(task)
        lines += [
            ("", f"missing for task{'s' * (len(which) > 1)} {', '.join(which)}: {reason}")
            for reason, which in tasks.items()
        ]
    return columns(lines)


def _cost(record: dict[str, Any]) -> list[str]:
    rows = [(f"{name} per task", f"{count:g}") for name, count in (record.get("calls") or {}).items()]
    time = record.get("time")
    if time:
        rows.append(("time", f"{1e3 * median(time['samples_s']):.3g} ms, median of {len(time['samples_s'])}"))
        against = time["reference"]["name"]
        rows.append((f"against {against}", f"{_ratio(time['samples_s'], time['reference_s'])} of its time"))
        noisy = " (noisy: the machine was too restless for times)" if restless(time) else ""
        rows.append((f"{against} against itself", _ratio(time["control_s"], time["reference_s"]) + noisy))
    tensors = record.get("tensor_bytes")
    if tensors:
        missing = tensors.get("missing")
        peak = f"missing: {missing}" if missing else f"{size(tensors['peak'])} ({tensors['meter']} meter)"
        rows.append(("peak of tensors", peak))
    resident = record.get("resident")
    if resident:
        missing = resident.get("missing")
        rows.append(
            ("growth of resident peak", f"missing: {missing}" if missing else size(resident["growth_bytes"]))
        )
    return columns(rows)


def _ratio(samples: list[float], reference: list[float]) -> str:
    return f"{median(a / b for a, b in zip(samples, reference, strict=True)):.3g} x"
