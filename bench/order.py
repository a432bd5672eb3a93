"""The order in which one page goes through all studies, and the headings that it puts them under."""

from collections.abc import Iterable

OTHERS = "Further studies"
GROUPS: dict[str, tuple[str, ...]] = {
    "Where the two methods differ": (
        "assumptions",
        "inner_steps",
        "failure_atlas",
        "inner_optimizers",
        "line_search",
        "outer_optimizers",
        "stability",
    ),
    "Is it numerical?": ("precision", "data_scale", "unrolling", "mixed"),
    "Accuracy, cost and other libraries": (
        "accuracy_vs_steps",
        "cost_vs_steps",
        "estimators",
        "libraries",
        "peers",
        "scaling",
    ),
}


def grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """Heading -> those of ``names`` under it, in order; names in no group come last, by name."""
    there = set(names)
    found = {heading: [name for name in group if name in there] for heading, group in GROUPS.items()}
    found[OTHERS] = sorted(there.difference(*GROUPS.values()))
    return {heading: group for heading, group in found.items() if group}
