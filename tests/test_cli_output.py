"""`metabench export`, `compact`, `figures` and `report`: all from stored records."""

import io
import re
from pathlib import Path

import pandas as pd
import pytest

from bench import order
from bench.record import Store
from tests.command_line import TINY, Result, metabench


def test_export_formats_hold_the_same_table(measured: Path):
    assert metabench("export", "tiny").code == 0
    assert metabench("export", "tiny", "--output", "table.parquet").code == 0
    csv, parquet = pd.read_csv("results/tiny/tiny.csv"), pd.read_parquet("table.parquet")
    assert list(csv.columns) == list(parquet.columns)
    assert len(csv) == len(parquet) == 4 * 2
    assert csv["error.maml"].to_list() == pytest.approx(parquet["error.maml"].to_list(), rel=1e-12)


def test_export_to_stdout_is_clean(measured: Path):
    full = metabench("export", "tiny", "--format", "json", "--output", "-")
    by_id = {record["id"]: record for record in full.json()}
    assert by_id == {record["id"]: record for record in Store("results", "tiny").records()}
    assert len(pd.read_csv(io.StringIO(metabench("export", "tiny", "--output", "-").out))) == 8
    piped = metabench("export", "tiny", "--format", "parquet", "--output", "-")
    assert len(pd.read_parquet(io.BytesIO(piped.raw))) == 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--format", "parquet", "-o", "x.csv"], "--format parquet does not go with x.csv"),
        (["-o", "x.xlsx"], "x.xlsx ends in none of .csv, .parquet, .json"),
        (["--format", "csv", "-o", "x.txt"], "x.txt ends in none of"),
    ],
)
def test_export_to_a_file_of_another_form_is_refused(measured: Path, arguments: list[str], says: str):
    result = metabench("export", "tiny", *arguments)
    assert (result.code, says in result.err) == (2, True)
    assert not list(Path().glob("x.*"))


def test_an_export_without_an_ending_is_csv_unless_told(measured: Path):
    assert metabench("export", "tiny", "-o", "plain").code == 0
    assert len(pd.read_csv("plain")) == 8
    assert metabench("export", "tiny", "-o", "other", "--format", "parquet").code == 0
    assert len(pd.read_parquet("other")) == 8


def test_the_columns_of_an_export_are_in_the_readme(measured: Path):
    metabench("export", "tiny")
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    section = readme.partition("### Columns of an export")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([^`]+)`", section))
    groups = tuple(name.removesuffix("*") for name in named if name.endswith("*"))
    for column in pd.read_csv("results/tiny/tiny.csv").columns:
        assert column in named or column.startswith(groups), column


def test_compact_changes_nothing_that_is_read(measured: Path):
    before = metabench("export", "tiny", "--output", "-").out
    result = metabench("compact", "tiny")
    assert result.code == 0
    (part,) = Path("results/tiny").glob("records.*.parquet")
    assert f"4 records in {part}" in result.out
    assert not list(Path("results/tiny/records").glob("*.json"))
    assert metabench("export", "tiny", "--output", "-").out == before
    assert metabench("status", "tiny").code == 0


@pytest.mark.parametrize("verb", ["export", "compact", "figures", "report"])
def test_without_records_the_verb_says_what_to_do(fresh: Path, verb: str):
    result = metabench(verb, "tiny.toml")
    assert result.code == 3
    assert "metabench run tiny.toml" in result.err


def test_figures_come_from_the_records(measured: Path):
    result = metabench("figures", "tiny")
    assert result.code == 0
    written = {path.suffix for path in Path("results/tiny/figures").iterdir()}
    assert written == {".pdf", ".svg", ".png", ".txt"}
    assert "results/tiny/figures/tiny.pdf" in result.out


def test_report_is_one_page(measured: Path):
    result = metabench("report", "tiny", "--output", "page.html")
    assert result.code == 0
    assert "page.html" in result.out
    assert "Does the command line work?" in Path("page.html").read_text()


def test_report_leaves_out_with_a_warning_what_is_not_measured(measured: Path):
    Path("more.toml").write_text(TINY)
    result = metabench("report", "tiny", "more.toml")
    assert result.code == 3
    assert "more.toml" in result.err
    assert Path("results/tiny/report.html").is_file()


def test_reports_on_several_studies_do_not_overwrite_each_other(measured: Path):
    Path("more.toml").write_text(TINY.replace("fomaml", "reptile"))
    assert metabench("run", "more.toml", "--jobs", 0).code == 0
    for studies in (["tiny"], ["more"], ["tiny", "more"]):
        assert metabench("report", *studies).code == 0
    pages = {path: path.read_text() for path in Path("results").rglob("*.html")}
    names = ["more/report.html", "report-tiny-more.html", "tiny/report.html"]
    assert sorted(str(path.relative_to("results")) for path in pages) == names
    assert len(set(pages.values())) == 3
    assert "Reptile" not in pages[Path("results/tiny/report.html")]


def test_a_report_on_all_studies_is_one_page_in_order(measured: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(order, "GROUPS", {"Questions": ("why", "what")})
    for name, method in (("what", "reptile"), ("why", "fomaml")):
        Path(f"{name}.toml").write_text(TINY.replace("Does the", f"Does {name}'s").replace("fomaml", method))
        assert metabench("run", f"{name}.toml", "--jobs", 0).code == 0
    (one, *_) = Store("results", "what").records()
    (measured / "results/what/records" / f"{one['id']}.json").unlink()
    result = metabench("report", "--all")
    assert result.code == 0, result.err
    assert "report on why, what, tiny: results/report.html" in result.out
    page = Path("results/report.html").read_text()
    assert re.findall(r'<article id="(\w+)"', page) == ["why", "what", "tiny"]
    assert re.findall(r'href="#(\w+)">Does', page) == ["why", "what", "tiny"]
    assert page.count("All 4 cells of the plan have a record") == 2
    assert "Of 4 cells of the plan 3 have a record" in page
    assert one["id"] in page


@pytest.mark.parametrize("arguments", [[], ["tiny", "--all"]])
def test_a_report_is_on_named_studies_or_on_all(measured: Path, arguments: list[str]):
    result = metabench("report", *arguments)
    assert result.code == 2
    assert "name studies, or give --all" in result.err


def test_a_report_on_all_of_nothing_says_what_to_do(fresh: Path):
    result = metabench("report", "--all")
    assert result.code == 3
    assert "nothing is measured under results; first: metabench run demo" in result.err


def test_records_of_an_earlier_study_are_told_and_kept_apart(measured: Path):
    (measured / "tiny.toml").write_text(TINY.replace("steps = [1, 2]", "steps = [2, 3]"))

    def exported(*more: str) -> tuple[int, str]:
        result = metabench("export", "tiny.toml", "--format", "json", "--output", "-", *more)
        return len(result.json()), result.err

    count, warning = exported()
    assert count == 2
    assert "2 of 4 cells have no record" in warning
    assert "2 records belong to no cell of this study file and are left out; --unasked takes them" in warning
    assert exported("--unasked")[0] == 4
    (measured / "tiny.toml").write_text(TINY.replace("float64", "float32"))
    count, warning = exported()
    assert count == 4
    told = "4 records belong to no cell of this study file"
    assert f"{told}; they are shown, as there are no others" in warning
    for verb in (["status"], ["plan"], ["submit", "--profile", "cpu", "--dry-run"]):
        assert told in metabench(verb[0], "tiny.toml", *verb[1:]).out
    assert metabench("status", "tiny.toml", "--json").json()["of_no_cell"] == 4
    assert told in metabench("run", "tiny.toml", "--jobs", 0).out
    assert told in metabench("report", "tiny.toml", "--unasked").err
    one = metabench("plan", "tiny.toml", "--json").json()["cells"][0]["id"]
    assert "belong" not in metabench("run", "tiny.toml", "--jobs", 0, "--cell", one).out


@pytest.mark.parametrize("fault", ["question = 3", TINY.replace("fomaml", "no-such-method")])
def test_reading_outlives_the_study_file(measured: Path, fault: str):
    def exported(study: str) -> Result:
        return metabench("export", study, "--format", "json", "--output", "-")

    (measured / "tiny.toml").write_text(fault)
    result = exported("tiny.toml")
    assert len(result.json()) == 4
    assert "warning" in result.err
    (measured / "tiny.toml").unlink()
    assert len(exported("tiny.toml").json()) == 4
    (measured / "results/tiny/tiny.toml").unlink()
    assert len(exported("tiny").json()) == 4
    assert metabench("report", "tiny").code == 0


def test_reading_writes_nothing_into_the_results(measured: Path):
    before = sorted(Path("results").rglob("*"))
    assert metabench("status", "tiny").code == 0
    assert metabench("report", "tiny", "--output", "page.html").code == 0
    assert metabench("export", "tiny", "--output", "table.csv").code == 0
    assert sorted(Path("results").rglob("*")) == before
