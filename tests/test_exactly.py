"""Keys tell apart what `==` does not, and take for the same what is made anew."""

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import torch

from bench.exactly import Exactly


@dataclass(frozen=True)
class Part:
    number: float = 1.0
    silent: object = field(default=None, compare=False)

    def method(self) -> float:
        return self.number


def _one() -> None: ...


def _other() -> None: ...


DIFFERENT = [
    (1, 1.0),
    (1, True),
    (0.0, -0.0),
    ((1,), [1]),
    ("1", 1),
    (Part(1), Part(1.0)),
    (Part(silent=1), Part(silent=2)),
    (Part(silent=[1.0]), Part(silent=[2.0])),
    ({"a": 1}, {"a": 2}),
    ({1}, {1.0}),
    (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
    (torch.zeros(2), torch.zeros(1, 2)),
    (torch.zeros(2), torch.tensor([0.0, -0.0])),
    (np.zeros(2), np.ones(2)),
    (torch.float32, torch.float64),
    (_one, _other),
    (partial(_one, 1), partial(_one, 2)),
    (Part(1.0).method, Part(2.0).method),
    (object(), object()),
]


@pytest.mark.parametrize(("a", "b"), DIFFERENT, ids=map(str, range(len(DIFFERENT))))
def test_different(a, b):
    assert Exactly(a) != Exactly(b)
    assert len({Exactly(a), Exactly(b)}) == 2


SAME = [
    lambda: Part(2.0, [torch.arange(3), {"a": np.ones(2)}]),
    lambda: partial(_one, 1, b=Part()),
    lambda: Part(2.0).method,
    lambda: (float("nan"), 1j, torch.Size([1]), torch.device("cpu"), b"x", None),
    lambda: torch.eye(3, dtype=torch.bfloat16).T[:, :2],
]


@pytest.mark.parametrize("make", SAME)
def test_the_same_made_twice(make):
    assert Exactly(make()) == Exactly(make())
    assert hash(Exactly(make())) == hash(Exactly(make()))


def test_a_change_in_place_makes_another_key():
    part = Part(silent=[1.0])
    before = Exactly(part)
    part.silent.append(2.0)  # pyright: ignore[reportAttributeAccessIssue]
    assert Exactly(part) != before


@dataclass
class Open:
    number: float = 1.0


@pytest.mark.parametrize("outer", [lambda x: Part(silent=x), lambda x: Part(silent=(x,)), lambda x: {"a": x}])
def test_only_what_cannot_change_is_remembered(outer):
    inner = Open()
    outside = outer(Part(silent=inner))
    before = Exactly(outside)
    inner.number = 2.0
    assert Exactly(outside) != before


def test_what_is_remembered_is_not_mixed_up():
    for i in range(2000):  # many more than are kept, at addresses that are used again
        assert Exactly(Part(float(i))) == Exactly(Part(float(i)))
        assert Exactly(Part(float(i))) != Exactly(Part(float(i + 1)))
