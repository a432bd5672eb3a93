"""Networks and problems: derivatives against finite differences, seeds, splits, and the data behind them."""

import hashlib
import io
import os
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import batch_norm as torch_batch_norm
from torch.nn.functional import max_pool2d as torch_max_pool

from bench import data, registry
from bench.api import Bilevel, Declined, InvalidValueError, Network, Problem, Tasks
from bench.errors import UsageError
from bench.problems import (
    MLP,
    CifarFS,
    Conv4,
    Glyphs,
    LearnedRate,
    LinearRegression,
    MiniImageNet,
    Omniglot,
    Sinusoid,
    glyph_images,
    glyphs,
    omniglot,
)
from bench.problems.networks import batch_norm, max_pool
from bench.testing.battery import Battery
from bench.testing.problems import _check_splits
from tests import fake_photographs

# Every problem, small; networks whose curvature exists almost everywhere.
PROBLEMS: dict[str, Problem] = {
    "linear_regression": LinearRegression(dim=6),
    "sinusoid": Sinusoid(network=MLP((8, 8), "tanh")),
    "sinusoid, ReLU": Sinusoid(network=MLP((8, 8))),
    "glyphs": Glyphs(queries=3, network=MLP((4,), "tanh")),
    "glyphs, 20 ways": Glyphs(ways=20, shots=5, queries=2, network=MLP((), "tanh")),
    "glyphs, conv": Glyphs(queries=3, network=Conv4(4)),
    "omniglot": Omniglot(queries=1, network=Conv4(4)),
    "omniglot, no norm": Omniglot(queries=1, network=Conv4(4, "none"), rotations=False, split_by="authors"),
    "cifar_fs": CifarFS(queries=1, network=Conv4(4, pooling="max")),
    "cifar_fs, stride": CifarFS(queries=1, network=Conv4(4), standardise=False),
    "mini_imagenet": MiniImageNet(ways=2, queries=1, network=Conv4(4, pooling="max")),
    "learned_rate": LearnedRate(Sinusoid(network=MLP((8, 8), "tanh"))),
}
# name of a problem -> the fixture of its data
DATA = {"omniglot": "fake_omniglot", "cifar_fs": "photographs", "mini_imagenet": "photographs"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small kernels on a busy machine: a second thread is mostly waited for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=PROBLEMS)
def problem(request, as_data) -> Problem:
    data_of = DATA.get(request.param.split(",")[0])
    if data_of:
        as_data(request.getfixturevalue(data_of))
    return PROBLEMS[request.param]


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """Generated pickles of CIFAR-100 and of mini-ImageNet."""
    root = tmp_path_factory.mktemp("photographs")
    fake_photographs.cifar_pickles(root)
    fake_photographs.mini_pickles(root)
    return root


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _point(problem: Problem, n_tasks: int = 2) -> tuple[Bilevel, Tensor, Tensor]:
    """A bilevel problem, parameters off the start (at which a ReLU may sit on its kink), and a direction."""
    meta = problem.init(_generator(1))
    bilevel = Bilevel(problem, problem.sample(_generator(2), n_tasks), meta)
    noise = torch.randn(2, n_tasks, len(meta), generator=_generator(3), dtype=torch.float64)
    return bilevel, bilevel.start + 0.05 * noise[0], noise[1]


def _central(f: Callable[[Tensor], Tensor], phi: Tensor, direction: Tensor, eps: float) -> Tensor:
    return (f(phi + eps * direction) - f(phi - eps * direction)) / (2 * eps)


def _assert_close(got: Tensor, want: Tensor, tolerance: float) -> None:
    assert (got - want).norm() <= tolerance * want.norm(), (got - want).norm() / want.norm()


def test_every_problem_is_covered_here():
    assert {registry.name_of(p) for p in PROBLEMS.values()} >= {
        name
        for name in registry.names("problem")
        if registry.get("problem", name).__module__.startswith("bench.")
    }


def test_gradients_match_finite_differences(problem):
    bilevel, phi, v = _point(problem)
    for value, grad in (
        (bilevel.inner_value, bilevel.inner_grad),
        (bilevel.outer_value, bilevel.outer_grad),
    ):
        _assert_close((grad(phi) * v).sum(dim=1), _central(value, phi, v, 1e-6), 1e-6)


def test_hessian_product_matches_finite_differences(problem):
    bilevel, phi, v = _point(problem)
    _assert_close(bilevel.inner_hvp(phi)(v), _central(bilevel.inner_grad, phi, v, 1e-6), 1e-6)


def test_loop_and_vmap_agree(problem):
    """The batched loss differentiated from outside, in either batching, is all derivatives in one vmap."""
    bilevel, phi, v = _point(problem)
    x, y = bilevel.tasks.support_x, bilevel.tasks.support_y

    def objective(one: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return problem.support_loss(one, x, y) + 0.5 * problem.strength * (one - bilevel.meta).square().sum()

    def product(one: Tensor, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return torch.func.grad(lambda p: (torch.func.grad(objective)(p, x, y) * v).sum())(one)

    _assert_close(bilevel.inner_grad(phi), torch.vmap(torch.func.grad(objective))(phi, x, y), 1e-12)
    _assert_close(bilevel.inner_hvp(phi)(v), torch.vmap(product)(phi, x, y, v), 1e-10)
    leaf = phi.clone().requires_grad_()
    (outside,) = torch.autograd.grad(torch.vmap(objective)(leaf, x, y).sum(), leaf, create_graph=True)
    _assert_close(outside.detach(), bilevel.inner_grad(phi), 1e-12)
    _assert_close(torch.autograd.grad(outside, leaf, v)[0], bilevel.inner_hvp(phi)(v), 1e-10)


def test_seeds_decide_everything_and_nothing_global_is_touched(problem):
    def states() -> tuple:
        return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()

    before = states()
    draws = [(problem.init(_generator(seed)), problem.sample(_generator(seed), 2)) for seed in (5, 5, 6)]
    (init, tasks), (same_init, same_tasks), (other_init, other_tasks) = draws
    assert states() == before
    assert torch.equal(init, same_init)
    assert not torch.equal(init, other_init)
    for name in ("support_x", "support_y", "query_x", "query_y"):
        assert torch.equal(getattr(tasks, name), getattr(same_tasks, name))
    assert not torch.equal(tasks.support_x, other_tasks.support_x)
    assert init.dtype == tasks.support_x.dtype == tasks.query_x.dtype == torch.float64


def test_task_does_not_depend_on_their_number(problem):
    few, many = problem.sample(_generator(), 2), problem.sample(_generator(), 5)
    for name in ("support_x", "support_y", "query_x", "query_y"):
        assert torch.equal(getattr(few, name), getattr(many, name)[:2])


def test_problem_is_its_description(problem):
    assert registry.build("problem", registry.describe(problem)) == problem


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_runs(problem, dtype):
    bilevel, phi, v = _point(problem)
    low = bilevel.to(dtype)
    product = low.inner_hvp(phi.to(dtype))(v.to(dtype))
    assert product.dtype == dtype
    assert torch.isfinite(product).all()
    if dtype == torch.float32:
        _assert_close(product.double(), bilevel.inner_hvp(phi)(v), 1e-3)


def test_accuracy_is_a_share():
    problem = PROBLEMS["glyphs"]
    bilevel, phi, _ = _point(problem, 3)
    accuracy = bilevel.outer_accuracy(phi)
    assert accuracy is not None
    logits = torch.stack(
        [MLP((4,), "tanh").forward(p, x, 5) for p, x in zip(phi, bilevel.tasks.query_x, strict=True)]
    )
    assert torch.equal(accuracy, (logits.argmax(-1) == bilevel.tasks.query_y).double().mean(1))
    assert ((accuracy >= 0) & (accuracy <= 1)).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Glyphs(ways=1), "ways = 1"),
        (lambda: Glyphs(shots=0), "shots = 0"),
        (lambda: Omniglot(queries=0), "queries = 0"),
        (lambda: Omniglot(strength=-1.0), "strength = -1"),
        (lambda: Omniglot(split_by="random"), "vinyals, authors"),
        (lambda: MLP((0,)), "hidden"),
        (lambda: MLP(activation="gelu"), "relu, tanh, softplus"),
        (lambda: Conv4(0), "filters"),
        (lambda: Conv4(norm="layer"), "batch, none"),
        (lambda: Conv4(pooling="mean"), "stride, max"),
        (lambda: Conv4(pooling="max").init(_generator(), (1, 15, 28), 5), "16 x 16 or larger"),
        (lambda: CifarFS(input_scale=0.0), "input_scale"),
    ],
)
def test_impossible_fields_are_refused(build, message):
    with pytest.raises(InvalidValueError, match=message):
        build()


# Networks


@pytest.mark.parametrize(
    ("network", "in_shape", "n_out", "size"),
    [
        (MLP(), (1,), 1, 1761),  # the network of the sinusoid in MAML and iMAML
        (MLP((), "tanh"), (2, 3), 4, 28),
        (Conv4(), (1, 28, 28), 5, 113_221),  # counted in iMAML's code
        (Conv4(64, "none"), (1, 28, 28), 20, 116_564),
        (Conv4(2), (3, 84, 84), 5, 551),
        (Conv4(32, pooling="max"), (3, 84, 84), 5, 32_901),  # counted in MAML's code
        (Conv4(2, pooling="max"), (1, 28, 19), 5, 165),
    ],
)
def test_network_sizes(network: Network, in_shape, n_out, size):
    phi = network.init(_generator(), in_shape, n_out)
    assert network.size(in_shape, n_out) == size
    assert phi.shape == (size,)
    assert network.forward(phi, torch.rand(3, *in_shape, dtype=torch.float64), n_out).shape == (3, n_out)


def test_batch_norm_is_torchs():
    x, scale, shift = torch.randn(7, 3, 5, 4), torch.randn(3), torch.randn(3)
    torch.testing.assert_close(
        batch_norm(x, scale, shift), torch_batch_norm(x, None, None, scale, shift, training=True)
    )


@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (2, 3, 7, 5)])
def test_max_pool_is_torchs(shape):
    x = torch.randn(shape, generator=_generator(), dtype=torch.float64).requires_grad_()
    ours, theirs = max_pool(x), torch_max_pool(x, 2)
    assert torch.equal(ours, theirs)
    weights = torch.randn(ours.shape, generator=_generator(1), dtype=torch.float64)
    for power in (1, 2):  # and second derivatives
        slopes = [
            torch.autograd.grad((weights * y**power).sum(), x, create_graph=True)[0] for y in (ours, theirs)
        ]
        assert torch.equal(*slopes)
    twice = [torch.autograd.grad(slope.square().sum(), x)[0] for slope in slopes]
    assert twice[0].any()
    assert torch.equal(*twice)


def test_a_description_without_pooling_is_the_older_one():
    assert registry.describe(Conv4(8)) == {"name": "conv4", "filters": 8, "norm": "batch"}
    assert registry.describe(Conv4(8, pooling="max"))["pooling"] == "max"


# Glyphs


def test_glyphs_have_hundreds_of_classes_in_many_scripts():
    loaded = glyphs.load()
    points = [int(name[2:], 16) for name in loaded.classes]
    of_block = {
        block: sum(first <= point <= last for point in points)
        for block, (first, last) in glyph_images.BLOCKS.items()
    }
    assert len(points) == len(set(points)) >= 600
    assert of_block["digits"] == 10
    assert sum(count >= 10 for count in of_block.values()) >= 8
    assert loaded.images.shape == (len(points), 20, 28, 28)
    assert {split: len(rows) >= 100 for split, rows in loaded.splits.items()} == dict.fromkeys(
        ("train", "val", "test"), True
    )


def test_glyphs_are_neither_blank_nor_cut_nor_boxes():
    images = glyphs.load().images.astype(float) / 255
    assert images.max(axis=(2, 3)).min() > 0.3
    assert images.mean(axis=(2, 3)).min() > 0.003
    assert images.mean(axis=(2, 3)).max() < 0.6
    edges = np.stack([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]])
    assert edges.max() < 0.5  # what touches the edge is the fringe of anti-aliasing
    # A font without the character would draw the same box for all: first images of all classes differ.
    assert len({image.tobytes() for image in images[:, 0]}) == len(images)


def test_glyphs_are_as_hard_as_omniglot_for_the_nearest_neighbour_in_pixels():
    tasks = Glyphs().sample(_generator(), 100, "test")
    support, query = tasks.support_x.flatten(2), tasks.query_x.flatten(2)
    similar = query @ (support / support.norm(dim=2, keepdim=True)).mT
    accuracy = (tasks.support_y.gather(1, similar.argmax(dim=2)) == tasks.query_y).double().mean()
    assert 0.4 < accuracy < 0.6  # 0.48; Omniglot 0.47; chance 0.2


def test_glyphs_in_the_cache_are_what_is_drawn_now():
    loaded = glyphs.load()
    drawn = dict(glyph_images.candidates())
    for number in (0, 20, len(loaded.classes) - 1):
        char = chr(int(loaded.classes[number][2:], 16))
        assert np.array_equal(glyph_images.instances(char, drawn[char]), loaded.images[number])


def test_near_copies_are_dropped():
    chars = {chr(int(name[2:], 16)) for name in glyphs.load().classes}
    assert {"A", "d", "\u0416", "\u0394"} <= chars  # Zhe, Delta
    assert not chars & set("\u0391\u0410\u039f\u041e")  # Greek and Cyrillic A and O


def test_glyphs_draw_once(tmp_path, monkeypatch):
    drawings = []

    def draw() -> data.Arrays:
        drawings.append(1)
        return {
            "code_points": np.arange(65, 165, dtype=np.int32),
            "images": np.zeros((100, 2, 28, 28), np.uint8),
        }

    monkeypatch.setattr(glyph_images, "draw", draw)
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "a"))
    first = glyphs.load()
    assert glyphs.load() is first
    glyphs._load.cache_clear()
    assert glyphs.load().fingerprint == first.fingerprint
    assert len(drawings) == 1
    glyphs._load.cache_clear()


@pytest.mark.parametrize(
    "problem", [Glyphs(), Omniglot(), Omniglot(split_by="authors"), CifarFS(), MiniImageNet()], ids=repr
)
def test_splits_share_no_class(problem, request, as_data):
    data_of = DATA.get(registry.name_of(problem))
    if data_of:
        as_data(request.getfixturevalue(data_of))
    loaded = problem.images()
    rows = np.concatenate(list(loaded.splits.values()))
    assert sorted(rows.tolist()) == list(range(len(loaded.classes)))  # each class in exactly one split
    assert len(set(loaded.classes)) == len(loaded.classes)
    assert problem.fingerprint() == loaded.fingerprint


# Omniglot


def _png(number: int, drawing: int) -> bytes:
    """105 x 105, 1 bit, ink 0 as in Omniglot; the character's number and the drawing in black blocks."""
    paper = np.ones((105, 105), dtype=bool)
    for bit, is_set in enumerate(f"{2 * number + drawing:012b}"):
        row, column = divmod(bit, 4)
        if is_set == "1":
            paper[5 + 35 * row : 30 + 35 * row, 4 + 26 * column : 22 + 26 * column] = False
    file = io.BytesIO()
    Image.fromarray(paper).save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="session")
def fake_omniglot(tmp_path_factory) -> Path:
    """All 1,623 characters with two generated drawings each, in zips as the official ones."""
    root = tmp_path_factory.mktemp("data")
    (root / "omniglot-py").mkdir()
    for part in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(root / "omniglot-py" / f"{part}.zip", "w") as archive:
            archive.writestr("__MACOSX/._images_background", b"left by a packer")
            for number, name in enumerate(sorted(omniglot.vinyals_split())):
                if name.startswith(part):
                    for drawing in (1, 0):
                        archive.writestr(f"{name}/{number:04d}_{drawing + 1:02d}.png", _png(number, drawing))
    return root


@pytest.fixture
def as_data(monkeypatch) -> Callable[[Path], None]:
    """Make a folder the data folder, with a cache of its own in it."""

    def use(root: Path) -> None:
        monkeypatch.setenv("METABENCH_DATA", str(root))
        monkeypatch.setenv("METABENCH_CACHE", str(root / "cache"))

    return use


@pytest.fixture
def small_copy(fake_omniglot, tmp_path) -> Path:
    """An unpacked copy with two characters of either part."""
    for part in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(fake_omniglot / "omniglot-py" / f"{part}.zip") as archive:
            archive.extractall(tmp_path / "omniglot-py", archive.namelist()[1:5])
    return tmp_path


def test_omniglot_reads_every_drawing_into_its_class(fake_omniglot, as_data):
    as_data(fake_omniglot)
    loaded = omniglot.load("vinyals")
    assert loaded.images.shape == (1623, 2, 28, 28)
    assert list(loaded.classes) == sorted(omniglot.vinyals_split())
    centres = [(17.5 + 35 * row, 13 + 26 * column) for row in range(3) for column in range(4)]
    bits = [loaded.images[:, :, int(r * 28 / 105), int(c * 28 / 105)] > 127 for r, c in centres]
    codes = np.stack(bits, axis=-1) @ (1 << np.arange(12)[::-1])
    assert np.array_equal(codes, 2 * np.arange(1623)[:, None] + np.arange(2))
    assert loaded.images[0, 0].max() == 0  # number 0, drawing 0: white paper
    assert loaded.images.max() == 255


def test_omniglot_unpacked_is_the_same_as_zipped(fake_omniglot, tmp_path, as_data):
    as_data(fake_omniglot)
    zipped = omniglot.load("vinyals").fingerprint
    for part in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(fake_omniglot / "omniglot-py" / f"{part}.zip") as archive:
            archive.extractall(tmp_path / "omniglot-py")
    as_data(tmp_path)
    assert omniglot.load("vinyals").fingerprint == zipped


def test_omniglot_is_prepared_once(fake_omniglot, as_data, monkeypatch):
    as_data(fake_omniglot)
    first = omniglot.load("vinyals")
    omniglot._arrays.cache_clear()
    omniglot._split.cache_clear()
    monkeypatch.setattr(omniglot, "_prepare", None)  # fails if it is called
    assert omniglot.load("vinyals").fingerprint == first.fingerprint
    assert omniglot.load("vinyals") is omniglot.load("vinyals")


def test_missing_omniglot_is_declined_with_what_to_do(tmp_path, as_data):
    as_data(tmp_path)
    with pytest.raises(Declined, match="metabench data get omniglot") as caught:
        Omniglot().sample(_generator(), 1)
    assert str(tmp_path / "omniglot-py") in str(caught.value)
    assert Omniglot().fingerprint() is None
    assert Omniglot().init(_generator()).shape == (113_221,)  # needs no data


def test_incomplete_omniglot_is_refused(small_copy, as_data):
    as_data(small_copy)
    for split_by in ("vinyals", "authors"):
        with pytest.raises(UsageError, match=r"has 4 classes: 1619 are missing"):
            Omniglot(split_by=split_by).sample(_generator(), 1)


def test_characters_with_fewer_drawings_are_refused(small_copy, as_data):
    next(small_copy.rglob("*.png")).unlink()
    as_data(small_copy)
    with pytest.raises(UsageError, match=r"equally many images, they have 1, 2"):
        Omniglot().sample(_generator(), 1)


def test_a_broken_image_is_named(small_copy, as_data):
    broken = next(small_copy.rglob("*.png"))
    broken.write_bytes(broken.read_bytes()[:60])
    as_data(small_copy)
    with pytest.raises(UsageError, match=f"{broken.name} in .* is no image"):
        Omniglot().sample(_generator(), 1)


def test_vinyals_split_has_the_published_sizes():
    sides = list(omniglot.vinyals_split().values())
    assert [sides.count(side) for side in ("train", "val", "test")] == [1028, 172, 423]


def test_authors_split_is_fixed_for_good():
    characters = sorted(omniglot.vinyals_split())
    sides = omniglot.authors_split(characters)
    assert omniglot.authors_split(characters[::-1]) == sides
    assert list(sides.values()).count("train") == 1200
    digest = hashlib.sha256(repr(sorted(sides.items())).encode()).hexdigest()
    assert digest.startswith("196454ce60ee2835")  # moves every result on this split if it changes


real = pytest.mark.skipif(
    not (os.environ.get("METABENCH_DATA") and data.sources("omniglot")),
    reason="METABENCH_DATA names no folder with Omniglot in it",
)


@real
def test_real_omniglot_is_whole():
    loaded = omniglot.load("vinyals")
    assert loaded.images.shape == (1623, 20, 28, 28)
    ink = loaded.images.mean(axis=(2, 3)) / 255
    assert 0 < ink.min() < ink.max() < 0.5
    assert 0.05 < ink.mean() < 0.12


@real
def test_real_omniglot_few_shot_task():
    tasks = Omniglot(ways=20, shots=5).sample(_generator(), 1, "test")
    assert tasks.support_x.shape == (1, 100, 1, 28, 28)
    assert tasks.query_x.shape == (1, 300, 1, 28, 28)


@pytest.mark.parametrize(("declared", "passes"), [(0.0, False), (0.01, True), (0.002, False)])
def test_an_example_in_two_splits_is_found_unless_the_problem_declares_it(monkeypatch, declared, passes):
    def sample(self, generator, n_tasks, split="train"):
        offset = {"train": 0, "val": 100, "test": 199}[split]  # 199 is in two of them
        x = torch.arange(offset, offset + 100, dtype=torch.float64).reshape(1, 100, 1)
        return Tasks(x[:, :50], x[:, :50], x[:, 50:], x[:, 50:])

    monkeypatch.setattr(LinearRegression, "sample", sample)
    monkeypatch.setattr(LinearRegression, "duplicates", declared)
    run = Battery()
    _check_splits(run, LinearRegression())
    assert [check.passed for check in run.checks] == [passes]
