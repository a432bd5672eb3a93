"""The verbs that make something of stored records: `export`, `figures`, `report`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli.options import RESULTS, Results, Studies, Study, Unasked, examples

app = typer.Typer()


@app.command(
    epilog=examples(
        "export demo", "export demo --output demo.parquet", "export demo --format json --output -"
    )
)
def export(
    study: Study,
    format: Annotated[
        Literal["csv", "parquet", "json"] | None,
        typer.Option("--format", help="Default: as the output file ends, else csv."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Where to; `-` is stdout. Default: RESULTS/STUDY/STUDY.FORMAT.",
            metavar="FILE",
        ),
    ] = None,
    results: Results = RESULTS,
    unasked: Unasked = False,
) -> None:
    """Write the records: csv and parquet one row per cell and task, json the full records."""
    from bench.cli.output import export_records

    raise typer.Exit(export_records(study, format, output, results, unasked))


@app.command(epilog=examples("figures demo", "figures cost_vs_steps --results results/reference"))
def figures(studies: Studies, results: Results = RESULTS, unasked: Unasked = False) -> None:
    """Draw the figures of a study from its stored records: PDF, SVG and PNG, with a caption file each."""
    from bench.cli.output import draw_figures

    raise typer.Exit(draw_figures(studies, results, unasked))


@app.command(
    epilog=examples(
        "report demo",
        "report accuracy_vs_steps cost_vs_steps --output page.html",
        "report --all --results results/reference",
    )
)
def report(
    studies: Annotated[
        list[str] | None, typer.Argument(help="Names of studies or TOML files.", metavar="STUDY...")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All studies with records, in the order of their questions.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Default: RESULTS/STUDY/report.html; on several studies RESULTS/report-STUDY-STUDY.html, "
            "on all RESULTS/report.html.",
            metavar="FILE",
        ),
    ] = None,
    results: Results = RESULTS,
    unasked: Unasked = False,
) -> None:
    """Build one self-contained HTML page on one or several studies from their stored records."""
    from bench.cli.output import build_report

    raise typer.Exit(build_report(studies or [], everything, output, results, unasked))
