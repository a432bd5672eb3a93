"""The order of all studies on one page."""

from bench.order import GROUPS, OTHERS, grouped
from bench.spec import shipped

UNASKED = {"demo", "gate"}  # answer no question about the methods


def test_every_shipped_study_has_its_place() -> None:
    assert set(shipped()) - {name for group in GROUPS.values() for name in group} <= UNASKED


def test_studies_are_in_order_and_unknown_ones_last() -> None:
    found = grouped(["mine", "peers", "stability", "assumptions", "demo", "mixed", "precision"])
    first, numerical, cost = GROUPS
    assert found == {
        first: ["assumptions", "stability"],
        numerical: ["precision", "mixed"],
        cost: ["peers"],
        OTHERS: ["demo", "mine"],
    }
    assert grouped([]) == {}
    names = [name for group in GROUPS.values() for name in group]
    assert len(set(names)) == len(names)
