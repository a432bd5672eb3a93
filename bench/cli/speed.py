"""The verbs about speed: `warm`, `profile`, `gate`."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import RESULTS, Json, Results, Study, examples

app = typer.Typer()


@app.command(epilog=examples("warm peers", "warm my/study.toml --json"))
def warm(study: Study, results: Results = RESULTS, json: Json = False) -> None:
    """Build and check the kernels of a study's compiled cells, once per machine. Measures nothing.

    `run` builds what is missing as well; afterwards it finds them on the disk. Exits with 0 if everything is
    compiled, 1 if something has to run in eager mode (each with its reason), 3 if no cell is compiled.
    """
    from bench.cli.warm import warm_study

    raise typer.Exit(warm_study(study, results, json))


@app.command(epilog=examples("profile peers", "profile my/study.toml --json"))
def profile(study: Study, results: Results = RESULTS, json: Json = False) -> None:
    """Show where the time of a study's compiled cells goes: kernel by kernel, next to bare matrix products.

    One cell for each kind. The floor of a kernel is the time of its matrix products alone. Exits with 3 if no
    cell is compiled.
    """
    from bench.cli.profile import show_profile

    raise typer.Exit(show_profile(study, results, json))


@app.command(
    epilog=examples(
        "gate --update", "gate --baseline tests/benchmarks/gate.json", "gate my/study.toml --time --json"
    )
)
def gate(
    study: Annotated[
        str, typer.Argument(help="A shipped study's name or a TOML file.", metavar="STUDY")
    ] = "gate",
    baseline: Annotated[
        Path, typer.Option("--baseline", help="The committed baseline.", metavar="FILE")
    ] = Path("gate.json"),
    update: Annotated[bool, typer.Option("--update", help="Write what is measured as the baseline.")] = False,
    time: Annotated[bool, typer.Option("--time/--no-time", help="Judge times too, in pairs.")] = False,
    results: Results = RESULTS,
    json: Json = False,
) -> None:
    """Compare calls, operators, FLOPs, bytes and errors of a study's cells with a baseline.

    Exits with 0 if all is as the baseline, 1 if something got worse or better, or a cell is missing, 3 if
    that is not judged (a baseline of another torch, a restless machine). RESULTS/STUDY/baseline.json then
    holds the new baseline.
    """
    from bench.cli.gate import run_gate

    raise typer.Exit(run_gate(study, baseline, update, time, results, json))
