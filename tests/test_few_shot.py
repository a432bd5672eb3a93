"""The N-way K-shot sampler, on images whose pixels say which class, drawing and rotation they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.api import Declined, Tasks
from bench.errors import UsageError
from bench.problems import few_shot

N_CLASSES, N_IMAGES = 30, 6
SIDES = ["train"] * 18 + ["val"] * 5 + ["test"] * 7


def _marked() -> few_shot.ImageClasses:
    """2 x 2 images: the upper row holds class and drawing, the lower one zeros."""
    images = np.zeros((N_CLASSES, N_IMAGES, 2, 2), dtype=np.uint8)
    images[:, :, 0, 0] = 1 + np.arange(N_CLASSES)[:, None]
    images[:, :, 0, 1] = 101 + np.arange(N_IMAGES)
    names = [f"class {i}" for i in range(N_CLASSES)]
    return few_shot.ImageClasses.of("marked", images, names, SIDES)


DATA = _marked()


def _draw(
    seed: int = 0, n_tasks: int = 3, split="train", ways=5, shots=2, queries=3, rotations=False
) -> Tasks:
    return few_shot.sample(
        DATA,
        torch.Generator().manual_seed(seed),
        n_tasks,
        split,
        ways=ways,
        shots=shots,
        queries=queries,
        rotations=rotations,
    )


def _read(x: torch.Tensor) -> list[tuple[int, int, int]]:
    """(class, drawing, quarter turns counter-clockwise) of every image of one task."""
    found = []
    for image in (255 * x[:, 0]).round().to(torch.int64):
        for turns in range(4):
            upright = torch.rot90(image, -turns)
            if upright[0, 1] > 100:
                found.append((int(upright[0, 0]) - 1, int(upright[0, 1]) - 101, turns))
    assert len(found) == len(x)
    return found


def test_shapes_types_and_range():
    tasks = _draw()
    assert tasks.support_x.shape == (3, 10, 1, 2, 2)
    assert tasks.query_x.shape == (3, 15, 1, 2, 2)
    assert tasks.support_y.shape == (3, 10)
    assert tasks.query_y.shape == (3, 15)
    assert tasks.support_x.dtype == torch.float64
    assert tasks.support_y.dtype == torch.int64
    assert 0 <= tasks.query_x.min() <= tasks.query_x.max() <= 1


@pytest.mark.parametrize("rotations", [False, True])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_task_is_a_few_shot_task(split, rotations):
    tasks = _draw(n_tasks=40, split=split, rotations=rotations)
    turns_seen, labels_of = set(), {}
    for t in range(len(tasks)):
        support, query = _read(tasks.support_x[t]), _read(tasks.query_x[t])
        label_of = {}
        for (number, _, turns), label in zip(
            support + query, tasks.support_y[t].tolist() + tasks.query_y[t].tolist(), strict=True
        ):
            assert SIDES[number] == split
            assert label_of.setdefault((number, turns), label) == label  # one label a class
            labels_of.setdefault(number, set()).add(label)
            turns_seen.add(turns)
        assert sorted(label_of.values()) == list(range(5))  # one class a label
        assert tasks.support_y[t].bincount().tolist() == [2] * 5
        assert tasks.query_y[t].bincount().tolist() == [3] * 5
        assert not set(support) & set(query)
        assert len(set(support + query)) == 25  # no image twice
    assert turns_seen == ({0, 1, 2, 3} if rotations else {0})
    assert all(len(labels) > 1 for labels in labels_of.values())  # labels are dealt anew in every task


def test_a_rotated_character_is_a_class_of_its_own():
    tasks = _draw(n_tasks=1, split="val", ways=20, shots=1, queries=1, rotations=True)
    assert len({(number, turns) for number, _, turns in _read(tasks.support_x[0])}) == 20


def test_all_classes_and_drawings_are_drawn():
    tasks = _draw(n_tasks=200)
    seen = {(number, drawing) for x in tasks.support_x for number, drawing, _ in _read(x)}
    assert seen == {(c, i) for c in range(18) for i in range(N_IMAGES)}


def test_task_does_not_depend_on_their_number():
    few, many = _draw(n_tasks=2), _draw(n_tasks=9)
    for name in ("support_x", "support_y", "query_x", "query_y"):
        assert torch.equal(getattr(few, name), getattr(many, name)[:2])


def test_seed_decides_and_the_generator_moves_on():
    assert torch.equal(_draw(seed=1).support_x, _draw(seed=1).support_x)
    assert not torch.equal(_draw(seed=1).support_x, _draw(seed=2).support_x)
    generator = torch.Generator().manual_seed(0)
    options = {"ways": 5, "shots": 2, "queries": 3}
    halves = [few_shot.sample(DATA, generator, n, "train", **options).query_x for n in (2, 1)]
    assert torch.equal(torch.cat(halves), _draw(seed=0, n_tasks=3).query_x)


def test_no_task_is_an_empty_batch():
    assert _draw(n_tasks=0).support_x.shape == (0, 10, 1, 2, 2)


def test_too_few_classes_says_got_and_needed():
    with pytest.raises(
        UsageError, match=r"6-way tasks need 6 classes; marked has 5 in its split 'val'.*ways = 5"
    ):
        _draw(split="val", ways=6)
    _draw(split="val", ways=6, rotations=True)  # 20 classes with rotations
    with pytest.raises(UsageError, match="marked has 20"):
        _draw(split="val", ways=21, rotations=True)


def test_too_few_images_says_got_and_needed():
    _draw(shots=3, queries=3)
    with pytest.raises(UsageError, match=r"need 7 images; marked has 6 per class.*shots \+ queries = 6"):
        _draw(shots=3, queries=4)


def test_a_split_that_does_not_exist_is_declined():
    without = few_shot.ImageClasses.of("marked", DATA.images, DATA.classes, ["train"] * N_CLASSES)
    with pytest.raises(Declined, match=r"marked has no split 'val'; it has: train"):
        few_shot.sample(without, torch.Generator(), 1, "val", ways=2, shots=1, queries=1)


def test_fingerprint_names_images_classes_and_split():
    other_images = DATA.images.copy()
    other_images[-1, -1, -1, -1] = 9
    variants = [
        few_shot.ImageClasses.of("marked", images, names, sides).fingerprint
        for images, names, sides in [
            (DATA.images, DATA.classes, SIDES),
            (other_images, DATA.classes, SIDES),
            (DATA.images, DATA.classes[::-1], SIDES),
            (DATA.images, DATA.classes, SIDES[::-1]),
        ]
    ]
    assert len(set(variants)) == 4
    assert variants[0] == replace(DATA).fingerprint == _marked().fingerprint


def _coloured() -> few_shot.ImageClasses:
    """The marked images as red, with a green of 40 in all training classes and a random blue."""
    images = np.zeros((N_CLASSES, N_IMAGES, 3, 2, 2), dtype=np.uint8)
    images[:, :, 0] = DATA.images
    images[:18, :, 1] = 40
    images[:, :, 2] = np.random.default_rng(0).integers(0, 256, (N_CLASSES, N_IMAGES, 2, 2))
    return few_shot.ImageClasses.of("coloured", images, DATA.classes, SIDES)


def test_colours_are_drawn_as_grey_is_and_turned_together():
    options = {"ways": 5, "shots": 2, "queries": 3, "rotations": True}
    coloured = few_shot.sample(_coloured(), torch.Generator().manual_seed(0), 3, "train", **options)
    grey = _draw(rotations=True)
    assert coloured.support_x.shape == (3, 10, 3, 2, 2)
    assert torch.equal(coloured.support_x[:, :, :1], grey.support_x)
    assert torch.equal(coloured.query_x[:, :, :1], grey.query_x)
    assert (coloured.query_x[:, :, 1] == 40 / 255).all()


def test_standardised_channels_have_the_training_classes_mean_and_deviation():
    data = _coloured()
    pixels = data.images[:18] / 255
    mean, deviation = pixels.mean(axis=(0, 1, 3, 4)), pixels.std(axis=(0, 1, 3, 4))
    assert deviation[1] < 1e-15  # a constant channel is shifted only
    deviation[1] = 1
    options = {"ways": 5, "shots": 2, "queries": 3}
    for split in ("train", "test"):
        raw = few_shot.sample(data, torch.Generator().manual_seed(0), 3, split, **options).query_x
        seen = few_shot.sample(
            data, torch.Generator().manual_seed(0), 3, split, standardise=True, input_scale=3.0, **options
        ).query_x
        wanted = 3 * (raw.numpy() - mean[:, None, None]) / deviation[:, None, None]
        np.testing.assert_allclose(seen, wanted, rtol=1e-12, atol=1e-14)
