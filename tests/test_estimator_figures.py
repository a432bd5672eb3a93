"""The figures of many methods at once: numbered points, their Pareto front, libraries in rows."""

import numpy as np
import pytest

from analysis import figures, table
from analysis.figures.estimators import FAMILIES, family, front
from bench.registry import names
from tests import fake_records as fake

METHODS = [*fake.MAMLS, fake.FOMAML, fake.imaml(), fake.imaml(iterations=2), {"name": "reptile"}]


def drawn(figure: str, **settings):
    records = fake.records([fake.LINEAR, fake.SINUSOID], METHODS, **settings)
    return figures.draw(fake.spec("many", figure=figure), table.frame(records))


def test_the_front_holds_what_nothing_beats() -> None:
    cost = [1.0, 2.0, 3.0, 1.5, 4.0]
    error = [1.0, 0.1, 0.2, 2.0, 0.0999]  # the last is no smaller than the second by 1 %
    assert front(cost, error) == [0, 1]
    assert front([2.0, 2.0], [1.0, 0.5]) == [1]
    assert front([], []) == []


def test_every_method_of_ours_has_a_family() -> None:
    ours = [name for name in names("method") if not name.startswith("toy")]
    assert "other" not in {family(name) for name in ours}
    assert family("somebody-elses") == "other"
    assert len({(look.color, look.marker) for look in FAMILIES.values()}) == len(FAMILIES)
    assert len({look.marker for look in FAMILIES.values()}) == len(FAMILIES)  # never by colour alone


def test_one_figure_a_problem_with_every_method_numbered() -> None:
    found = drawn("estimators")
    assert list(found) == ["many", "many-2"]
    for drawing in found.values():
        axes = drawing.figure.axes
        assert len(axes) == 4  # two references, two costs
        legend = [t.get_text() for t in drawing.figure.legends[0].get_texts()]
        numbers = [entry.split()[0] for entry in legend]
        assert numbers == [str(i + 1) for i in range(len(METHODS))]
        for panel in axes:
            inside = [t.get_text() for t in panel.texts if t.get_text().isdigit()]
            assert sorted(inside, key=int) == numbers


def test_labels_do_not_lie_on_each_other() -> None:
    drawing = drawn("estimators")["many"]
    drawing.figure.draw_without_rendering()
    for panel in drawing.figure.axes:
        boxes = [t.get_window_extent() for t in panel.texts if t.get_text().isdigit()]
        centres = np.array([((b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2) for b in boxes])
        gaps = np.linalg.norm(centres[:, None] - centres[None], axis=2)
        assert gaps[~np.eye(len(boxes), dtype=bool)].min() > 0.5 * min(b.height for b in boxes)


def test_the_same_records_give_the_same_bytes(tmp_path) -> None:
    for folder in ("a", "b"):
        figures.save(drawn("estimators"), tmp_path / folder)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("figure", ["estimators", "libraries", "peers", "scaling"])
def test_a_study_without_accuracy_or_cost_is_drawn_all_the_same(figure: str) -> None:
    for passes in (["accuracy"], ["time"]):
        assert drawn(figure, passes=passes)


def test_libraries_have_a_row_each() -> None:
    found = drawn("libraries")
    assert list(found) == ["many", "many-2"]
    rows = [t.get_text() for t in found["many"].figure.axes[0].get_yticklabels()]
    assert len(rows) == len(METHODS)
