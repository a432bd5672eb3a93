"""The verbs about clusters: `submit`, `logs`, `cancel`; `status` has the jobs too."""

from typing import Annotated

import typer

from bench.cli.options import RESULTS, Json, Limit, Results, RetryFailed, Study, examples

app = typer.Typer()


@app.command(
    epilog=examples(
        "submit demo --profile cpu --dry-run",
        "submit demo --profile my/cluster.toml --limit 20",
        "submit my/study.toml --profile cpu --minutes-per-job 30",
        "submit demo --profile cpu --workers-per-job 4",
    )
)
def submit(
    study: Study,
    profile: Annotated[
        str, typer.Option("--profile", help="A shipped profile's name or a TOML file.", metavar="NAME")
    ],
    cells_per_job: Annotated[
        int | None, typer.Option("--cells-per-job", min=1, help="So many cells in every job.")
    ] = None,
    minutes_per_job: Annotated[
        float | None, typer.Option("--minutes-per-job", help="Work in a job, as predicted. [default: 15]")
    ] = None,
    workers_per_job: Annotated[
        int, typer.Option("--workers-per-job", min=1, help="Cells that a job runs at the same time.")
    ] = 1,
    array_parallelism: Annotated[
        int | None,
        typer.Option(
            "--array-parallelism", min=1, help="Jobs of an array at the same time, not the profile's."
        ),
    ] = None,
    limit: Limit = None,
    retry_failed: RetryFailed = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the packing and the scripts. Needs no Slurm.")
    ] = False,
    results: Results = RESULTS,
    json: Json = False,
) -> None:
    """Send what is missing of a study to Slurm, packed into jobs of some minutes. Safe to repeat at any time.

    What a live job has is not sent again; what a job was running when it died gets the status killed, and
    is sent. RESULTS must lie where the cluster's nodes see it. Exits with 0 also if there is nothing to
    send, with 1 if every cell that is missing is declined or left for another profile.
    """
    from bench.cli.jobs import submit_study

    raise typer.Exit(
        submit_study(
            study,
            profile,
            results,
            cells=cells_per_job,
            minutes=minutes_per_job,
            workers=workers_per_job,
            parallelism=array_parallelism,
            limit=limit,
            retry=retry_failed,
            dry_run=dry_run,
            json=json,
        )
    )


@app.command(epilog=examples("logs 3f2a", "logs 3f2a --study demo --results /shared/results"))
def logs(
    cell: Annotated[str, typer.Argument(help="The first letters of a cell's id.", metavar="CELL")],
    results: Results = RESULTS,
    study: Annotated[str | None, typer.Option("--study", help="Look in this study only.")] = None,
) -> None:
    """Show what the jobs that had a cell wrote while they ran it. Needs no Slurm.

    With several workers in a job, lines of the cells beside it are among them. Exits with 1 if no job has
    begun the cell yet.
    """
    from bench.cli.jobs import show_logs

    raise typer.Exit(show_logs(cell, results, study))


@app.command(epilog=examples("cancel demo", "cancel demo --results /shared/results"))
def cancel(study: Study, results: Results = RESULTS) -> None:
    """Cancel the jobs of a study, running ones too. Finished cells stay; `submit` sends the others again."""
    from bench.cli.jobs import cancel_study

    raise typer.Exit(cancel_study(study, results))
