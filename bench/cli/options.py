"""Arguments and options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

Study = Annotated[
    str,
    typer.Argument(
        help="A shipped study's name (see `metabench list study`) or a TOML file.", metavar="STUDY"
    ),
]
Studies = Annotated[list[str], typer.Argument(help="Names of studies or TOML files.", metavar="STUDY...")]
Results = Annotated[Path, typer.Option("--results", help="Folder of all results.", metavar="DIR")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
Unasked = Annotated[
    bool, typer.Option("--unasked", help="Also records that no cell of the study file asks for.")
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="So many cells at most, one of every kind first.", metavar="N"),
]
RetryFailed = Annotated[
    bool,
    typer.Option("--retry-failed", help="Also cells that have a record, but are not ok; declined ones too."),
]
RESULTS = Path("results")


def examples(*commands: str) -> str:
    """The examples under a verb's help."""
    return "Examples:\n\n" + "\n".join(f"- `metabench {command}`" for command in commands)
