"""The report and its verdicts, on made-up records."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis import report, table, verdict
from bench.errors import UsageError
from tests import fake_records as fake

METHODS = [*fake.MAMLS, fake.FOMAML, fake.imaml(iterations=1), fake.imaml(iterations=10)]


def said(records):
    """Everything that the verdicts say: (setting, term) -> text."""
    found = verdict.verdicts(table.frame(records))
    return {(v.setting, item.term): item.methods + item.text for v in found for item in v.items}


def at_ten(records):
    return {term: text for (_, term), text in said(records).items()}


def of(records, **errors):
    """The records with all errors to exact MAML of some methods set: name of the method -> error."""
    return [
        fake.with_errors(r, "maml", [errors[name]] * 4)
        if (name := r["cell"]["method"]["name"].replace("-", "_")) in errors
        else r
        for r in records
    ]


def page(*pairs):
    return report.render(list(pairs))


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects attributes."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_closest_and_exact_are_computed_from_the_records():
    records = of(fake.records([fake.LINEAR], METHODS), fomaml=0.3, maml=2e-16, imaml=0.6)
    ten = [r["cell"]["method"].get("linear", {}).get("iterations") == 10 for r in records]
    errors = [0.01, 0.02, 0.03, 0.02]
    records = [
        fake.with_errors(r, "maml", errors) if of_ten else r for r, of_ten in zip(records, ten, strict=True)
    ]
    text = at_ten(records)
    closest = text["Closest approximation to exact MAML"]
    assert re.fullmatch(
        r"iMAML, CG 10 with relative error 0\.020 \[0\.0[12]\d*, 0\.0[23]\d*\] "
        r"at 1\d\.\d ms \(3\.\d\d times FOMAML\) and 46\.9 KiB\.",
        closest,
    ), closest
    exact = "MAML, adjoint; MAML, unrolled; MAML, checkpointed: median relative error at most 2.0e-16; "
    assert text["Exact up to rounding"].startswith(exact + "cheapest: MAML, adjoint at ")
    ratios = table.summary(table.frame(records)).set_index("method")["time.ratio"]
    cheapest = ratios[["iMAML, CG 10", "MAML, adjoint", "MAML, unrolled", "MAML, checkpointed"]].idxmin()
    assert text["Cheapest within 10% error"].startswith(f"{cheapest} at ")
    better = at_ten(of(records, fomaml=1e-3))
    assert better["Closest approximation to exact MAML"].startswith("FOMAML with relative error 0.0010 at")
    assert better["Cheapest within 10% error"].startswith("FOMAML at ")


def test_methods_that_cannot_be_told_apart_are_said():
    records = of(fake.records([fake.LINEAR], METHODS), fomaml=0.3, imaml=0.3)
    text = at_ten(records)["Closest approximation to exact MAML"]
    assert text.startswith("FOMAML")
    assert text.endswith("Not told apart from it: iMAML, CG 1; iMAML, CG 10.")
    apart = of(records, imaml=0.31)
    assert "Not told apart" not in at_ten(apart)["Closest approximation to exact MAML"]


def test_an_exact_method_that_is_wrong_is_not_called_exact():
    records = of(fake.records([fake.LINEAR], [*METHODS, {"name": "maml-higher"}]), maml_higher=0.046)
    text = at_ten(records)
    assert "higher" not in text["Exact up to rounding"]
    assert text["Not as promised"].startswith("MAML, higher should be exact, but its relative error 0.046")


def test_what_counts_as_rounding_depends_on_the_dtype():
    for dtype, exact in (("float32", True), ("float64", False)):
        records = of(fake.records([fake.LINEAR], METHODS, dtype=dtype), maml=1e-5)
        assert ("Exact up to rounding" in at_ten(records)) == exact


def test_nobody_within_ten_percent():
    records = of(fake.records([fake.LINEAR], METHODS[3:]), fomaml=0.3, imaml=0.2)
    assert at_ten(records)["Cheapest within 10% error"] == "No method."
    assert "Closest to exact MAML" in at_ten(records)


def test_missing_reference_is_said_and_the_other_one_used():
    records = [
        fake.without_reference(r, "maml", "not differentiable") for r in fake.records([fake.LINEAR], METHODS)
    ]
    text = at_ten(records)
    assert text["Distance to exact MAML"] == "Not known: not differentiable."
    assert "Closest to the exact implicit gradient" in text


def test_verdicts_without_data():
    cells = fake.records([fake.LINEAR], METHODS, seeds=[0])
    failed = [fake.failing(r, "error") for r in cells]
    assert at_ten(failed) == {"No verdict": "No cell ended well: 6 error."}
    bare = [
        {k: v for k, v in r.items() if k not in ("accuracy", "time", "calls", "tensor_bytes", "resident")}
        for r in cells
    ]
    assert at_ten(bare) == {"No verdict": "Neither an error nor a cost was measured."}


def test_costs_alone_give_a_verdict_and_the_growth_of_memory():
    text = said(fake.records([fake.SINUSOID], METHODS, [1, 100], [0], passes=["time", "tensor_bytes"]))
    assert text["1 inner step", "Fastest"].startswith("FOMAML with ")
    least = text["100 inner steps", "Least memory"]
    assert least.startswith("FOMAML; iMAML, CG 1; iMAML, CG 10 with ")
    assert "most: MAML, unrolled with" in least
    growth = text["from 1 to 100 inner steps", "Factor by which peak tensor bytes grow"]
    assert "MAML, unrolled: 29.3; " in growth
    assert "iMAML, CG 10: 1.00." in growth


@pytest.fixture(scope="module")
def failed():
    """A record that ended badly, and the page that it is on."""
    records = fake.records([fake.LINEAR], METHODS, seeds=[0, 1])
    records[2] = fake.failing(records[2], "out_of_memory")
    return records[2], page((fake.spec("demo", figure="overview"), records))


def test_page_is_self_contained_and_well_formed(failed):
    seen = Page(failed[1]).seen
    tags = [tag for tag, _ in seen]
    assert "script" not in tags
    assert "link" not in tags
    assert tags.count("h1") == 1
    for tag, attributes in seen:
        for name in ("src", "href"):
            if name in attributes:
                assert attributes[name].startswith(("data:", "#")), (tag, attributes[name][:80])
        if tag == "img":
            assert len(attributes["alt"]) > 40
    ids = [attributes["id"] for _, attributes in seen if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in seen:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids


def test_page_shows_failures_with_the_command_that_shows_them(failed):
    record, text = failed
    assert "1 \N{MULTIPLICATION SIGN} out_of_memory" in text
    assert "made to end as out_of_memory" in text
    assert f"metabench show {record['id']}" in text
    assert "MAML, unrolled on linear regression, 10 inner steps, float64, seed 0" in text


def test_many_failures_of_one_kind_are_counted_not_all_listed():
    records = [fake.failing(r, "declined") for r in fake.records([fake.LINEAR], METHODS)]
    text = page((fake.spec("demo", figure="overview"), records))
    assert "18 \N{MULTIPLICATION SIGN} declined" in text
    assert f"and {18 - report.MOST_IDS} more" in text
    assert text.count("metabench show ") == report.MOST_IDS


def test_page_escapes_what_users_and_errors_write():
    records = fake.records([fake.LINEAR], METHODS, seeds=[0])
    records[0] = fake.failing(records[0], "error")
    records[0]["reason"]["message"] = "<script>alert(1)</script>"
    text = page((fake.spec("x", question="Is 1 < 2 & <b>why</b>?"), records))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "Is 1 &lt; 2 &amp; &lt;b&gt;why&lt;/b&gt;?" in text


def test_page_carries_the_table_unless_it_is_too_large(failed, monkeypatch):
    assert 'download="demo.csv" href="data:text/csv;base64,' in failed[1]
    monkeypatch.setattr(report, "CSV_LIMIT", 1000)
    text = page((fake.spec("demo", figure="overview"), fake.records([fake.LINEAR], METHODS[-1:], seeds=[0])))
    assert "data:text/csv" not in text
    assert "metabench export demo --format csv" in text


def test_numbers_stay_with_their_units_and_markup_stays_escaped():
    glued = report.glue("a <b> at 1.5 ms, 2e-7 [1e-7, 3e-7] and 12 gradients")
    assert glued == (
        'a &lt;b&gt; at <span class="nb">1.5 ms</span>, <span class="nb">2e-7</span> '
        '<span class="nb">[1e-7, 3e-7]</span> and 12 gradients'
    )


def test_page_on_several_studies_and_one_without_records():
    text = page(
        (fake.spec("first", figure="overview"), fake.records([fake.LINEAR], METHODS[-1:], seeds=[0])),
        (fake.spec("second"), []),
    )
    Page(text)
    assert '<a href="#second">second</a>' in text
    assert "Nothing is measured yet" in text


def test_numbers_in_the_page_are_those_of_the_summary():
    records = fake.records([fake.LINEAR], METHODS[-3:])
    text = page((fake.spec("demo", figure="overview"), records))
    row = table.summary(table.frame(records)).set_index("method").loc["FOMAML"]
    cell = re.search(r"FOMAML</th><td>10</td><td>([\d.e-]+)<small>", text)
    assert cell
    assert float(cell[1]) == pytest.approx(row["error.maml"], rel=0.05)


def test_the_same_records_give_the_same_page(tmp_path):
    pair = (fake.spec("demo", figure="overview"), fake.records([fake.LINEAR], METHODS[-2:], seeds=[0]))
    first, second = (report.build([pair], tmp_path / n / "page.html") for n in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_commands_name_the_study_so_that_a_shell_finds_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    mine = fake.spec("mine", path=tmp_path / "my studies" / "mine.toml")
    assert "metabench run &#39;my studies/mine.toml&#39;" in page((mine, []))
    far = fake.spec("mine", path=Path("/elsewhere/mine.toml"))
    assert "metabench run mine.toml" in page((far, []))
    assert "elsewhere" not in page((far, []))


def test_an_output_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write the report"):
        report.build([(fake.spec("x"), [])], tmp_path / "file" / "page.html")


def test_analysis_needs_no_torch(tmp_path):
    code = f"""
import sys
from pathlib import Path
import analysis.captions, analysis.figures, analysis.report, analysis.table
from tests import fake_records as fake
records = fake.records([fake.LINEAR], [fake.FOMAML, fake.imaml()], [1, 10], [0])
spec = fake.spec("x", figure="overview")
analysis.report.build([(spec, records)], Path({str(tmp_path / "page.html")!r}))
analysis.figures.save(analysis.figures.draw(spec, analysis.table.frame(records)), Path({str(tmp_path)!r}))
assert "torch" not in sys.modules, "analysis imports torch"
"""
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").stat().st_size > 10_000
