"""The report and its verdicts, on made-up records."""

import base64
import gzip
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis import downloads, figures, pictures, report, table, verdict
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


def page(*pairs, **more):
    return report.render(list(pairs), **more)


def downloaded(text, name):
    """What the page's link of that file name carries, and its media type."""
    (found,) = re.findall(rf'download="{re.escape(name)}" href="data:([^;]*);base64,([^"]*)"', text)
    return base64.b64decode(found[1]), found[0]


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
    monkeypatch.setattr(downloads, "PLAIN", 1000)
    some = fake.records([fake.LINEAR], METHODS[-1:], seeds=[0])
    text = page((fake.spec("demo", figure="overview"), some))
    content, kind = downloaded(text, "demo.csv.gz")
    assert kind == "application/gzip"
    pd.testing.assert_frame_equal(
        pd.read_csv(io.BytesIO(gzip.decompress(content))),
        pd.read_csv(io.StringIO(table.frame(some).to_csv(index=False))),
    )
    monkeypatch.setattr(downloads, "CSV_LIMIT", 1000)
    text = page((fake.spec("demo", figure="overview"), some))
    assert 'download="demo.csv' not in text
    assert "too large for this page;</span>\n<code>metabench export demo --format csv" in text


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
    assert '<a href="#second">Which method' in text
    assert "Nothing is measured yet" in text


def test_a_page_on_one_study_has_its_parts_in_order_and_no_contents(failed):
    labels = re.findall(r'<section (?:id="[^"]*" )?aria-label="([^"]*)"', failed[1])
    order = ["Figures", "Verdict", "Settings", "Cells", "Failures", "What the budget left out", "Reproduce"]
    assert labels == order
    assert 'id="contents"' not in failed[1]


def test_contents_name_each_question_with_its_one_line_answer_in_the_order_given():
    records = of(fake.records([fake.LINEAR], METHODS), fomaml=0.3, maml=2e-16, imaml=0.6)
    pairs = [(fake.spec(n, question=f"Is it {n}?", figure="overview"), records) for n in ("b", "a", "c")]
    groups = {"First": ["a"], "Then": ["c", "b"]}
    text = page(*pairs, groups=groups)
    Page(text)
    contents = text[text.index('id="contents"') : text.index("</nav>")]
    assert re.findall(r'<h2>(.*?)</h2>|href="#(\w)"', contents) == [
        ("First", ""), ("", "a"), ("Then", ""), ("", "c"), ("", "b")
    ]  # fmt: skip
    answer = "Closest approximation to exact MAML, on linear regression, 10 inner steps: FOMAML with relative"
    assert contents.count(answer) == 3
    assert "Cheapest" not in contents  # which is not its first sentence
    assert text.count('<a class="up download" href="#contents">') == 3


def test_a_verdict_can_be_downloaded_with_the_table_that_it_is_read_from():
    records = of(fake.records([fake.LINEAR], METHODS), fomaml=0.3, maml=2e-16, imaml=0.6)
    text = page((fake.spec("demo", figure="overview"), records))
    sentences = pd.read_csv(io.BytesIO(downloaded(text, "demo-verdict.csv")[0]))
    assert (
        dict(zip(sentences["term"], sentences["methods"].fillna(""), strict=True))[
            "Closest approximation to exact MAML"
        ]
        == "FOMAML"
    )
    medians = pd.read_csv(io.BytesIO(downloaded(text, "demo-medians.csv")[0])).set_index("method")
    mine = [r for r in records if r["cell"]["method"]["name"] == "fomaml"]
    times = [np.median(np.divide(r["time"]["samples_s"], r["time"]["reference_s"])) for r in mine]
    assert medians.loc["FOMAML", "error.maml"] == 0.3
    assert medians.loc["FOMAML", "time.ratio"] == pytest.approx(np.median(times))
    assert "test.loss" not in medians


def test_a_module_says_what_its_verdict_is_read_from_else_its_tables_are_it():
    rows = [{"method": "a", "axes": ["1"], "values": [("2 %", "[1, 3]"), ("4", "")], "n": "5", "failed": ""}]
    one = {"problem": "p", "first": "network", "heads": ["lambda", "share", "size", "n", ""], "rows": rows}
    frame = pd.DataFrame()
    own = SimpleNamespace(verdicts=lambda _: [], tables=lambda _: [one])
    (_, table_link) = downloads.of_verdict("x", own, frame, [])
    content = pd.read_csv(io.BytesIO(base64.b64decode(table_link.source.partition(",")[2])))
    assert (table_link.name, content.iloc[0].drop("failed").to_dict()) == (
        "x-table.csv",
        {
            "problem": "p",
            "network": "a",
            "lambda": 1,
            "share": "2 %",
            "share, interval": "[1, 3]",
            "size": 4,
            "n": 5,
        },
    )
    own.evidence = lambda _: {"shares": pd.DataFrame({"k": [1]})}
    assert [link.name for link in downloads.of_verdict("x", own, frame, [])] == [
        "x-verdict.csv",
        "x-shares.csv",
    ]


def test_trainings_can_be_downloaded():
    records = fake.trainings()
    text = page((fake.spec("outer", figure="learning_curves"), records))
    found = pd.read_csv(io.BytesIO(downloaded(text, "outer-evaluations.csv")[0]))
    assert len(found) == sum(len(r["train"]["evaluations"]) for r in records)
    assert found["evaluation.loss"].sum() == pytest.approx(
        sum(e["loss"]["mean"] for r in records for e in r["train"]["evaluations"])
    )


def test_what_the_budget_left_out_is_told_apart_from_failures():
    records = fake.records([fake.LINEAR], METHODS, seeds=[0, 1])
    ends = ("declined", "timed_out", "timed_out", "error")
    records = [fake.failing(r, s) for r, s in zip(records, ends, strict=False)] + records[4:]
    missing = [(f"{i:016x}", f"cell {i}") for i in range(11)]
    plan = report.Plan(len(records) + 11, 90.0, missing, unasked=2)
    text = page((fake.spec("demo", figure="overview"), records), plans={"demo": plan}, results="some/where")
    failures, left_out = (text[text.index(f'id="demo-{name}"') :] for name in ("failures", "left-out"))
    failures = failures[: failures.index("</section>")]
    left_out = left_out[: left_out.index("</section>")]
    assert "made to end as error" in failures
    assert "timed_out" not in failures
    assert (
        f"Of {len(records) + 11} cells of the plan {len(records)} have a record; the others were" in left_out
    )
    assert "1 declined, 2 ended by the time limit" in left_out
    assert "2 \N{MULTIPLICATION SIGN} timed_out" in left_out
    assert "made to end as declined" in left_out
    assert "2 records that no cell of the study file asks for" in left_out
    assert left_out.count("<code>0000") == report.MOST_IDS
    assert "and 3 more: <code>metabench plan demo --cells --results some/where</code>" in left_out
    assert "metabench export demo --results some/where --format csv" in text


def test_large_scatters_are_pixels_and_coordinates_short():
    drawing = figures.draw(
        fake.spec("demo", figure="overview"), table.frame(fake.records([fake.LINEAR], METHODS))
    )
    (first, *_) = drawing.values()
    axes = first.figure.axes[0]
    x, y = (np.linspace(*ends, pictures.MOST_POINTS + 1) for ends in (axes.get_xlim(), axes.get_ylim()))
    axes.plot(x, y, "o", linestyle="None")
    shown = base64.b64decode(pictures.picture("demo", first).source.partition(",")[2]).decode()
    assert "<image" in shown
    paths = " ".join(re.findall(r' d="([^"]*)"', shown))
    assert re.search(r"\.\d\d\b", paths)
    assert not re.search(r"\.\d\d\d", paths)


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
