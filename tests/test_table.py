"""Records to the tidy frame, its labels, statistics and summary; all on made-up records."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import labels, metrics, reasons, stats, style, table, units
from tests import fake_records as fake


def one(method, steps=10, problem=fake.LINEAR, **settings):
    return fake.record(fake.describe(problem, method, steps, **settings))


def only(frame, **values):
    """The rows of a frame that have these values; dots in column names are written as two underscores."""
    for column, value in values.items():
        frame = frame[frame[column.replace("__", ".")] == value]
    assert len(frame)
    return frame


def test_a_row_per_task_with_the_numbers_of_the_record():
    record = one(fake.imaml(iterations=5), seed=2)
    frame = table.frame([record])
    assert frame["task"].tolist() == [0, 1, 2, 3]
    reference = record["accuracy"]["references"]["maml"]
    assert frame["error.maml"].tolist() == reference["relative_error"]
    assert frame["cosine.maml"].tolist() == reference["cosine"]
    assert frame["stats.linear_residual"].tolist() == record["accuracy"]["stats"]["linear_residual"]
    assert set(frame["method"]) == {"iMAML, CG 5"}
    assert set(frame["method.linear.name"]) == {"conjugate_gradient"}
    assert set(frame["seed"]) == {2}
    assert set(frame["steps"]) == {10}
    assert set(frame["tensor_bytes.peak"]) == {record["tensor_bytes"]["peak"]}
    assert set(frame["calls.derivatives"]) == {11 + 5 + 1}
    assert set(frame["how.implicit"]) == {"closed form"}


def test_cells_of_two_gpus_are_two_lines():
    def on(gpu, device="cuda", seed=0):
        made = one(fake.FOMAML, device=device, seed=seed)
        return made | {"environment": made["environment"] | ({"gpu": gpu} if gpu else {})}

    same = table.frame([on("A", seed=0), on("A", seed=1)])
    assert set(same["device"]) == {"cuda"}
    frame = table.frame([on("A"), on("B", seed=1), on(None, "cpu", seed=2)])
    assert set(frame["device"]) == {"cuda (A)", "cuda (B)", "cpu"}
    assert set(table.with_axes(frame)["method"]) == {"FOMAML, cuda (A)", "FOMAML, cuda (B)", "FOMAML, cpu"}


@pytest.mark.parametrize("status", fake.STATUSES)
def test_failures_keep_their_reason_and_what_was_measured(status):
    frame = table.frame([fake.failing(one(fake.FOMAML), status)])
    assert set(frame["status"]) == {status}
    assert set(frame["reason"]) == {f"made to end as {status}"}
    kept = status in ("not_converged", "non_finite")
    assert frame["task"].isna().all() == (not kept)
    assert len(frame) == (4 if kept else 1)


def test_passes_that_were_not_run_are_missing_values():
    frame = table.frame([one(fake.FOMAML, passes=["time"]), one(fake.FOMAML, passes=["accuracy"], seed=1)])
    timed = only(frame, passes="time")
    assert timed["task"].isna().all()
    assert timed["time.median_s"].notna().all()
    assert timed["error.maml"].isna().all()
    assert only(frame, passes="accuracy")["time.median_s"].isna().all()
    assert only(frame, passes="accuracy")["tensor_bytes.peak"].isna().all()


def test_no_records_give_an_empty_frame_with_all_columns():
    frame = table.frame([])
    assert frame.empty
    assert set(table.CORE) <= set(frame.columns)


def test_missing_references_of_all_and_of_some_tasks():
    record = fake.without_reference(one(fake.FOMAML), "implicit", "the Hessian is indefinite", [1, 3])
    record = fake.without_reference(record, "maml", "no first-order solver")
    frame = table.frame([record])
    assert frame["missing.maml"].tolist() == ["no first-order solver"] * 4
    assert frame["error.maml"].isna().all()
    assert frame["error.implicit"].isna().tolist() == [False, True, False, True]
    assert frame["missing.implicit"].isna().tolist() == [True, False, True, False]


def test_time_ratio_is_the_median_of_paired_ratios():
    record = one(fake.FOMAML)
    record["time"] |= {
        "samples_s": [2.0, 30.0, 2.0],
        "reference_s": [1.0, 10.0, 4.0],
        "control_s": [1.0, 20.0, 2.0],
    }
    row = table.frame([record]).iloc[0]
    assert row["time.ratio"] == 2.0  # of 2, 3 and 0.5; the quotient of the medians would be 0.5
    assert row["time.control_ratio"] == 1.0
    assert row["time.median_s"] == 2.0
    assert row["time.ratio_low"] <= 2.0 <= row["time.ratio_high"]


def test_null_numbers_become_missing():
    record = fake.with_errors(one(fake.FOMAML), "maml", [None, 0.5, 0.5, 0.5])
    assert table.frame([record])["error.maml"].isna().tolist() == [True, False, False, False]


def test_the_frame_does_not_depend_on_the_order_of_records():
    records = fake.demo()
    shuffled = [records[i] for i in np.random.default_rng(0).permutation(len(records))]
    pd.testing.assert_frame_equal(table.frame(records), table.frame(shuffled))


def test_frames_can_be_written_as_csv_and_parquet(tmp_path):
    odd = [one({"name": "toy", "size": 3}), one({"name": "toy", "size": "auto"})]
    frame = table.frame(
        [*odd, *(fake.failing(one(fake.FOMAML, seed=i), s) for i, s in enumerate(fake.STATUSES))]
    )
    frame.to_parquet(tmp_path / "f.parquet", index=False)
    back = pd.read_parquet(tmp_path / "f.parquet")
    assert back["status"].tolist() == frame["status"].tolist()
    assert frame.to_csv(index=False).startswith("id,study,status")


@pytest.mark.parametrize(
    ("description", "label"),
    [
        ({"name": "maml", "backward": "adjoint"}, "MAML, adjoint"),
        ({"name": "maml-higher"}, "MAML, higher"),
        ({"name": "fomaml"}, "FOMAML"),
        (fake.imaml(iterations=20), "iMAML, CG 20"),
        (fake.imaml("dense", None), "iMAML, dense"),
        (fake.imaml("neumann", 5), "iMAML, Neumann 5"),
        (fake.imaml() | {"curvature": {"name": "finite_difference"}}, "iMAML, CG 5, finite difference"),
        (fake.imaml() | {"inner": {"name": "hessian_free"}}, "iMAML Hessian-free, CG 5"),
        ({"name": "imaml-authors-code", "steps": 16}, "iMAML, authors' code"),
        ({"name": "my-method", "linear": {"name": "my_solver"}}, "my-method, my solver"),
    ],
)
def test_labels_of_methods(description, label):
    assert labels.method(description) == label


def test_labels_say_what_differs_within_a_problem_and_nothing_else():
    fast, slow = ({"name": "gradient_descent", "steps": 5, "learning_rate": r} for r in (0.1, 0.01))
    both = [one(fake.FOMAML | {"inner": i}) for i in (fast, slow)]
    assert set(table.frame(both)["method"]) == {"FOMAML, learning rate 0.1", "FOMAML, learning rate 0.01"}
    apart = [one(fake.FOMAML | {"inner": fast}), one(fake.FOMAML | {"inner": slow}, problem=fake.SINUSOID)]
    assert set(table.frame(apart)["method"]) == {"FOMAML"}
    swept = [one(fake.FOMAML, steps=k) for k in (1, 10)]
    assert set(table.frame(swept)["method"]) == {"FOMAML"}


def test_labels_name_the_inner_solver_where_several_meet():
    adam = {"name": "adam", "steps": 10, "learning_rate": 0.01, "beta1": 0.9}
    frame = table.frame([one(fake.FOMAML), one(fake.MAMLS[0] | {"inner": adam})])
    assert set(frame["method"]) == {"FOMAML", "MAML, adjoint, Adam"}
    assert set(table.frame([one(fake.MAMLS[0] | {"inner": adam})])["method"]) == {"MAML, adjoint"}


def test_labels_of_problems_say_what_differs():
    frame = table.frame(fake.records([fake.LINEAR, fake.HARD, fake.SINUSOID], [fake.FOMAML], seeds=[0]))
    assert list(dict.fromkeys(frame["problem"])) == [
        "linear regression, condition 6, strength 2",
        "linear regression, condition 100, strength 0.12",
        "sinusoid",
    ]


def test_swept_settings_get_curves_of_their_own():
    both = [one(fake.FOMAML, dtype=d) for d in ("float32", "float64")]
    assert set(table.with_axes(table.frame(both))["method"]) == {"FOMAML, float32", "FOMAML, float64"}
    apart = [one(fake.FOMAML, dtype="float32"), one(fake.FOMAML, dtype="float64", problem=fake.SINUSOID)]
    assert set(table.with_axes(table.frame(apart))["method"]) == {"FOMAML"}
    assert set(table.with_axes(table.frame(both), apart=("dtype",))["method"]) == {"FOMAML"}


def test_the_engine_is_said_of_what_runs_on_both():
    jax = {"name": "maml-jax"}
    records = [one(fake.FOMAML), one(fake.FOMAML, engine="compiled"), one(fake.MAMLS[0], engine="compiled")]
    frame = table.with_axes(table.frame([*records, one(jax)]))
    found = {"FOMAML, eager", "FOMAML, compiled", "MAML, adjoint, compiled", "MAML, JAX"}
    assert set(frame["method"]) == found


def test_styles_are_stable_different_and_ordered():
    known = [*style.KNOWN, *(f"iMAML, CG {n}" for n in (1, 2, 5, 10, 20)), "iMAML, Neumann 5", "toy", "toy 2"]
    looks = style.styles(known)
    assert len(set(looks.values())) == len(known)
    assert {label: style.of(label) for label in known} == looks
    marks = {(look.marker, look.line, look.filled) for look in looks.values()}
    assert len(marks) == len(known), "colour must not be the only difference"
    assert style.of("toy").color in style.OTHER_COLORS
    assert not set(style.OTHER_COLORS) & {style.of(k).color for k in known if not k.startswith("toy")}
    assert style.of("iMAML, CG 5, float32").color == style.of("iMAML, CG 5").color
    assert style.of("iMAML, CG 5, float32") != style.of("iMAML, CG 5")
    order = ["MAML, adjoint", "MAML, unrolled", "FOMAML", "iMAML, CG 5", "iMAML, CG 10", "toy"]
    assert style.ordered(sorted(order)) == order


def test_many_unknown_methods_still_get_different_styles():
    assert len(set(style.styles(f"method {i}" for i in range(100)).values())) == 100


def test_interval_covers_and_does_not_depend_on_call_order():
    values = np.random.default_rng(0).normal(size=(5, 20))
    groups = np.repeat(np.arange(5), 20)
    first = stats.hierarchical(values.ravel(), groups)
    np.random.default_rng(1).normal(size=10)
    assert stats.hierarchical(values.ravel(), groups) == first
    assert first.low < first.median == np.median(values) < first.high
    assert first[3:] == (100, 5)


def test_interval_sees_the_level_of_seeds():
    # Tasks within a seed agree, seeds do not: resampling tasks alone would claim much too narrow an interval.
    values = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], 50)
    seeds = np.repeat(np.arange(5), 50)
    interval = stats.hierarchical(values, seeds)
    naive = stats.bootstrap(values)
    assert interval.high - interval.low >= 2
    assert naive.high - naive.low < interval.high - interval.low


def test_interval_has_about_its_coverage():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(100):
        interval = stats.bootstrap(rng.normal(size=30))
        hits += interval.low <= 0 <= interval.high
    assert 85 <= hits <= 100


def test_intervals_of_ragged_groups_missing_values_and_infinities():
    values = np.array([1.0, np.nan, 2.0, 3.0, 4.0, np.inf])
    interval = stats.hierarchical(values, np.array([0, 0, 0, 1, 2, 2]))
    assert interval.median == 3.0
    assert interval[3:] == (5, 3)
    assert stats.hierarchical(np.array([np.nan]), np.array([0])).n == 0
    single = stats.bootstrap(np.array([2.0]))
    assert (single.median, single.n) == (2.0, 1)
    assert math.isnan(single.low)


def test_ragged_resamples_have_the_size_of_the_groups_drawn():
    # The group of one value may be drawn alone; then the median is its value, whatever padding there is.
    interval = stats.hierarchical(np.array([7.0, 1.0, 1.0, 1.0]), np.array([0, 1, 1, 1]))
    assert (interval.low, interval.high) == (1.0, 7.0)


def test_summary_has_medians_intervals_counts_and_failures():
    records = fake.records([fake.LINEAR], [fake.imaml(), fake.FOMAML])
    records[0] = fake.failing(records[0], "timed_out")
    rows = table.summary(table.frame(records)).set_index("method")
    imaml = rows.loc["iMAML, CG 5"]
    assert (imaml["cells"], imaml["seeds"], imaml["failed"], imaml["failures"]) == (3, 3, 1, "1 timed_out")
    errors = [e for r in records[1:3] for e in r["accuracy"]["references"]["maml"]["relative_error"]]
    assert imaml["error.maml"] == pytest.approx(np.median(errors))
    assert imaml["error.maml.n"] == 8
    assert imaml["error.maml.low"] <= imaml["error.maml"] <= imaml["error.maml.high"]
    assert imaml["time.ratio"] == pytest.approx((10 + 2.2 * 5) / 10, rel=0.1)
    assert rows.loc["FOMAML", "time.control_ratio"] == pytest.approx(1, abs=0.1)
    assert rows.loc["FOMAML", "failed"] == 0


def test_costs_count_once_per_cell_and_a_single_cell_keeps_its_own_interval():
    record = one(fake.FOMAML)
    row = table.summary(table.frame([record])).iloc[0]
    samples = record["time"]["samples_s"]
    assert row["time.median_s"] == np.median(samples)
    assert row["time.median_s.n"] == 1
    assert table.frame([record])["time.cpu_s"].tolist() == [np.median(record["time"]["cpu_s"])] * 4
    assert min(samples) <= row["time.median_s.low"] < row["time.median_s.high"] <= max(samples)


def test_summary_keeps_methods_without_steps_and_swept_settings_apart():
    authors = {"name": "toy", "size": 3}
    records = [
        one(authors, steps=None),
        *(one(fake.FOMAML, steps=k, dtype=d) for k in (1, 2) for d in ("float32", "float64")),
    ]
    rows = table.summary(table.frame(records))
    assert len(rows) == 5
    assert rows["dtype"].nunique() == 2
    assert rows[rows["method"] == "toy"]["steps"].isna().all()


def test_summary_when_everything_failed():
    rows = table.summary(table.frame([fake.failing(one(fake.FOMAML), "error")]))
    assert rows["failures"].tolist() == ["1 error"]
    assert rows["error.maml"].isna().all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.digits(2.94e-5), "2.9e-5"), (units.digits(0.0), "0"), (units.digits(0.0999), "0.10"),
        (units.digits(1234.5, 3), "1230"), (units.digits(math.inf), "not finite"),
        (units.digits(0.00123), "0.0012"),
        (units.seconds(0.00123), "1.23 ms"), (units.seconds(2.5e-7), "250 ns"),
        (units.seconds(75.0), "75.0 s"),
        (units.nbytes(1536), "1.50 KiB"), (units.nbytes(12), "12 B"), (units.nbytes(3 * 2**30), "3.00 GiB"),
        (units.count(12345), "12,345"), (units.count(2.5), "2.5"),
        (units.cosine(0.99), "0.990"), (units.cosine(-1e-9), "0.000"),
        (units.cosine(1 - 3e-6), "1 - 3e-6"), (units.cosine(1.0), "1.000"),
    ],
)  # fmt: skip
def test_numbers_as_text(text, expected):
    assert text == expected


def test_metrics_describe_values_with_and_without_an_interval():
    metric = metrics.SECONDS
    assert metric.describe(0.001, 0.0009, 0.0011) == "1.00 ms [900 µs, 1.10 ms]"
    assert metric.describe(0.001, math.nan, math.nan) == "1.00 ms"


def test_reasons_that_differ_in_numbers_only_are_one_kind():
    said = [
        "kink: jumps by 1.4e-2 times; descent stops at 3",
        "kink: jumps by 7 times; stops",
        "tasks 0, 2",
        "tasks 1",
        "x",
    ]
    found = reasons.kinds(pd.Series(said))
    assert [(k.text, k.n, k.where.tolist()) for k in found] == [
        ("for example kink: jumps by 1.4e-2 times", 2, [0, 1]),
        ("for example tasks 0, 2", 2, [2, 3]),
        ("x", 1, [4]),
    ]


def test_labels_of_many_cells_take_a_look_at_each_value_or_a_few():
    """Linear in cells: of 2,000 descriptions of one label every value is looked at a few times, not 2,000."""
    looks = 0

    class Value(int):
        def __repr__(self) -> str:
            nonlocal looks
            looks += 1
            return int.__repr__(self)

    n = 2000
    found = labels.distinguish(["a"] * n, [{"size": Value(i % 2)} for i in range(n)], ["p"] * n)
    assert set(found) == {"a, size 0", "a, size 1"}
    assert looks < 10 * n


def test_stages_of_a_training_are_rows_of_their_own():
    some = [
        one | {"id": f"{i}{one['id'][1:]}", "cell": one["cell"] | {"start": {"cell": "ab12", "stage": stage}}}
        for i, stage in enumerate(("start", "half", "end"))
        for one in fake.records([fake.LINEAR], [fake.FOMAML], [10], [0])
    ]
    frame = table.frame(some)
    rows = table.summary(frame)
    assert sorted(rows["start.stage"]) == ["end", "half", "start"]
    assert rows["cells"].tolist() == [1, 1, 1]
    assert sorted(table.with_axes(frame)["method"].unique())[0] == "FOMAML, started at end"
