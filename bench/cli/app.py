"""Verbs, options, help and exit codes.

What a verb does lies in a module of its own and is imported only when called, so that help is instant.
"""

import os
import sys
from typing import Annotated

import typer

from bench.cli import cluster, outputs, speed, storage
from bench.cli.options import (
    RESULTS,
    Json,
    Limit,
    Results,
    RetryFailed,
    Study,
    examples,
)
from bench.errors import UsageError

USAGE = 2
BROKEN_PIPE = 1  # as rich and typer say it where they notice first

EXIT_CODES = """Exit codes: 0 all done; 1 some cells (or checks, or a gate) failed; 2 wrong usage; 3 nothing
measured, or not judged; 130 interrupted. A declined cell is no failure: its method or problem gave a reason,
which `status` shows."""

app = typer.Typer(
    help="Benchmarks and ablations of meta-gradients: accuracy against exact MAML, time and memory.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="Data sets: download them, or say where a copy must lie.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(outputs.app)
app.add_typer(speed.app)
app.add_typer(cluster.app)
app.add_typer(storage.app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line on ``arguments`` (default: those of the process) and exit with its code."""
    try:
        try:
            app(arguments, prog_name="metabench")
        finally:
            sys.stdout.flush()
    except UsageError as error:
        print(f"metabench: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except BrokenPipeError:
        # What is still buffered must not raise again when the interpreter closes its files.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"metabench {version('metabench')} (torch {version('torch')}, Python {sys.version.split()[0]})")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print versions and exit.")
    ] = False,
) -> None: ...


@app.command("list", epilog=examples("list", "list linear", "list study --json"))
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="Only this kind: method, inner, linear, preconditioner, curvature, outer, problem, network, "
            "study."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show every plugin and study: one line each, and its fields with defaults and allowed values."""
    from bench.cli.catalogue import show_catalogue

    show_catalogue(kind, json)


@app.command(epilog=examples("plan demo", "plan my/study.toml --cells", "plan accuracy_vs_steps --json"))
def plan(
    study: Study,
    results: Results = RESULTS,
    cells: Annotated[bool, typer.Option("--cells", help="One line for each cell.")] = False,
    json: Json = False,
) -> None:
    """Show the cells of a study, how many there are and what is done already. Runs nothing."""
    from bench.cli.plan import show_plan

    show_plan(study, results, cells, json)


@app.command(
    epilog=examples("run demo", "run my/study.toml -j 8 --retry-failed", "run demo --cell 3f2a --force -j 0")
)
def run(
    study: Study,
    jobs: Annotated[
        int,
        typer.Option("--jobs", "-j", min=0, help="Worker processes; 0 runs in this process, without limits."),
    ] = 1,
    results: Results = RESULTS,
    cell: Annotated[
        str | None, typer.Option("--cell", help="Only this cell: the first letters of its id.", metavar="ID")
    ] = None,
    limit: Limit = None,
    force: Annotated[bool, typer.Option("--force", help="Run again although done.")] = False,
    retry_failed: RetryFailed = False,
) -> None:
    """Run what is missing of a study. Safe to stop at any time: running again goes on where it stopped.

    Exits with 0 if every cell of the study is ok or declined, 1 if some failed (or did not converge),
    3 if nothing was measured at all, 130 on Ctrl-C.
    """
    from bench.cli.run import run_study

    raise typer.Exit(run_study(study, jobs, results, cell, limit, force, retry_failed))


@app.command(
    epilog=examples("status", "status demo --watch", "status demo --results results/reference --json")
)
def status(
    study: Annotated[
        str | None,
        typer.Argument(help="A study's name or TOML file; without, all under RESULTS.", metavar="[STUDY]"),
    ] = None,
    results: Results = RESULTS,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until no job is left.")] = False,
    json: Json = False,
) -> None:
    """Show what is done, failed and missing, the failures by kind, and the jobs where it was submitted.

    Without STUDY: how many cells of every study are in which state. Exits with 0 if all is done, 1 if some
    cells failed or are missing, 3 if nothing was measured and no job is left that may.
    """
    from bench.cli import watch as watching
    from bench.cli.plan import show_status, show_studies

    if study is None:
        if watch:
            raise UsageError("--watch is of one study; name it: metabench status STUDY --watch")
        raise typer.Exit(show_studies(results, json))
    if watch:
        raise typer.Exit(watching.watch(lambda: show_status(study, results, json, watched=True)))
    raise typer.Exit(show_status(study, results, json)[0])


@app.command(epilog=examples("show 3f2a", "show 3f2a --study demo --json"))
def show(
    cell: Annotated[str, typer.Argument(help="The first letters of a cell's id.", metavar="CELL")],
    results: Results = RESULTS,
    study: Annotated[str | None, typer.Option("--study", help="Look in this study only.")] = None,
    json: Json = False,
) -> None:
    """Show one record: settings, metrics, cost or failure, and the command that runs it again."""
    from bench.cli.show import show_record

    show_record(cell, results, study, json)


@app.command(
    epilog=examples("check imaml", "check linear:conjugate_gradient problem:sinusoid", "check --all --json")
)
def check(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="A METHOD, KIND:NAME (such as linear:dense), or KIND:all.", metavar="TARGET..."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every plugin of every kind.")] = False,
    json: Json = False,
) -> None:
    """Run the conformance battery on plugins, your own included. Exits with 1 if a check fails.

    Prints every check of a single plugin, of several only what did not pass. A plugin that declines (a
    problem whose data are not on this machine) has neither passed nor failed.
    """
    from bench.cli.check import check_plugins

    raise typer.Exit(check_plugins(targets or [], everything, json))


@app.command(
    epilog=examples(
        "certify maml --problem sinusoid",
        "certify imaml --problem linear_regression --dtype float16",
        "certify imaml --problem sinusoid --set method.inner.steps=50",
    )
)
def certify(
    method: Annotated[str, typer.Argument(help="The method's name.", metavar="METHOD")],
    problem: Annotated[str, typer.Option("--problem", help="The problem's name.", metavar="NAME")],
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A field: method.FIELD=VALUE or problem.FIELD=VALUE.", metavar="KEY=VALUE"
        ),
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="What is computed with.")] = "float32",
    n_tasks: Annotated[int, typer.Option("--tasks", min=1, help="Number of tasks.")] = 4,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which tasks and parameters.")] = 0,
    bound: Annotated[float, typer.Option("--bound", help="Radius over norm to reach.")] = 1e-30,
    json: Json = False,
) -> None:
    """Split a method's error into rounding and truncation, both proven: what would infinite precision give?

    The method's own operations run once more in ball arithmetic, where every number carries a bound of its
    error. Exits with 0 if all tasks were certified, 1 if some, 3 if none was (each with its reason).
    """
    from bench.cli.certified import certify_cell

    raise typer.Exit(certify_cell(method, problem, changes or [], dtype, n_tasks, seed, bound, json))


@data.command("get", epilog=examples("data get omniglot"))
def data_get(
    name: Annotated[str, typer.Argument(help="The data set's name; `metabench doctor` lists them.")],
) -> None:
    """Download a data set with checksum and progress, or say where your own copy must lie."""
    from bench.cli.check import get_data

    get_data(name)


@app.command(epilog=examples("doctor", "doctor --json"))
def doctor(json: Json = False) -> None:
    """Look at this machine: torch, threads, CUDA, which meters work, data, caches, Slurm, plugins.

    Exits with 1 if a meter measures wrongly or a plugin is broken; what is merely absent is no error.
    """
    from bench.cli.examination import show_examination

    raise typer.Exit(show_examination(json))
