"""The verbs about the store of records: `compact`, `verify`, `merge`, `gc`."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import RESULTS, Json, Results, Studies, Study, examples

app = typer.Typer()


@app.command(epilog=examples("compact demo", "compact demo libraries --results /shared/results"))
def compact(studies: Studies, results: Results = RESULTS) -> None:
    """Move the loose records of a study into a few Parquet files. Every verb reads both.

    May run while the study runs, and be killed: no record is lost. From some thousand cells on it makes
    `plan`, `status` and `run` start faster, above all where the results lie on a shared file system.
    """
    from bench.cli.compact import compact_records

    raise typer.Exit(compact_records(studies, results))


@app.command(epilog=examples("verify demo", "verify demo --repair --results results/reference"))
def verify(
    study: Study,
    repair: Annotated[
        bool, typer.Option("--repair", help="Move damaged files to set_aside, save what is sound in them.")
    ] = False,
    results: Results = RESULTS,
    json: Json = False,
) -> None:
    """Read every record of a study in full: its checksum, its form, and that its id is its cell's.

    Of trainings also the files of meta-parameters: that they are there, and what they were.

    Exits with 0 if the store is sound, or was made so by --repair, which says what `run` will run again; with
    1 if something is damaged, or trained meta-parameters are missing; with 3 if there are no records. Litter
    and older copies do no harm.
    """
    from bench.cli.verify import verify_records

    raise typer.Exit(verify_records(study, repair, results, json))


@app.command(
    epilog=examples(
        "merge /cluster_a/results /cluster_b/results", "merge other/results/demo --results results"
    )
)
def merge(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of results, or of one study in them; they stay as they are.", metavar="FOLDER..."
        ),
    ],
    results: Annotated[
        Path, typer.Option("--results", "--into", help="Folder of results to bring them into.", metavar="DIR")
    ] = RESULTS,
    json: Json = False,
) -> None:
    """Unite the records of several clusters, or bring in those that a full disk has sent elsewhere.

    A cell with two records keeps the better one (ok, then measured, then that of DIR); the other goes to
    repeated/. Exits with 1 if the two have other results (status, meta-gradient, errors or
    calls), if a record's trained meta-parameters are in neither folder, or if the study files differ and
    records belong to no cell of the one that DIR has.
    """
    from bench.cli.merge import merge_records

    raise typer.Exit(merge_records(sources, results, json))


@app.command(epilog=examples("gc --dry-run", "gc --results results/reference --days 7"))
def gc(
    results: Results = RESULTS,
    days: Annotated[
        float, typer.Option("--days", min=0, help="Job folders without a sign of life for so long go.")
    ] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove what dead processes have left: writes cut off, empty folders, the folders of old jobs.

    Of finished trainings also their checkpoints, and files of meta-parameters that no record names.
    Never a record, nor what was set aside, nor the folder of jobs that Slurm lists. Where Slurm does not
    answer, job folders with claims younger than 30 days stay.
    """
    from bench.cli.gc import collect_garbage

    raise typer.Exit(collect_garbage(results, days, dry_run))
