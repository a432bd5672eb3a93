"""The meter of tensor storages, against programs counted by hand and against torch's profiler."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from bench.api import Bilevel
from bench.measure import TensorBytes, tensor_bytes
from bench.problems import MLP, Sinusoid
from methods import IMAML, MAML
from methods.inner import GradientDescent

CPU = torch.device("cpu")
KB = 2**10


def by_hand(device="cpu"):
    a = torch.zeros(100 * KB, dtype=torch.uint8, device=device)  # 100
    b = a + 1  # 200
    del a  # 100
    c = b.view(10, -1)[3:]  # a view
    b.add_(1)  # in place
    d = c.to(torch.float32)  # 100 + 280
    del b  # c still holds it
    e = d.t().detach()
    del c  # 280
    f = torch.empty_like(d, dtype=torch.uint8)  # 350
    return e, f


def test_a_program_counted_by_hand():
    result = tensor_bytes(by_hand, CPU)
    assert result == {"peak": 380 * KB, "meter": "dispatch"}


def test_current_follows_what_is_alive():
    with TensorBytes() as meter:
        e, f = by_hand()
        assert meter.current == 350 * KB
        del e
        assert meter.current == 70 * KB
        del f
        assert meter.current == 0


def test_inputs_are_not_counted():
    x = torch.ones(100 * KB, dtype=torch.uint8)
    y = x.clone()

    def run():
        z = x.view(10, -1)
        z.add_(1)
        y.copy_(x)
        torch.add(x, 1, out=y)
        return x.reshape(-1)[5:], y.detach(), torch.split(x, 10)

    assert tensor_bytes(run, CPU)["peak"] == 0


def test_lists_resizes_and_constants_are_counted():
    def run():
        parts = torch.stack([torch.zeros(KB), torch.ones(KB)]).unbind()  # 8 + 8, the parts are views
        grown = torch.empty(0, dtype=torch.uint8)
        grown.resize_(64 * KB)
        return parts, grown, torch.tensor([1.0] * KB)  # 4

    with TensorBytes() as meter:
        kept = run()
    assert meter.current == (8 + 64 + 4) * KB
    assert meter.peak >= meter.current
    del kept
    assert meter.current == 0


def program():
    """Forward, backward and double backward of a small network under vmap."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(3, 64, 64, generator=generator, requires_grad=True)
    x = torch.randn(3, 200, 64, generator=generator)

    def loss(w, x):
        return torch.tanh(x @ w).square().mean()

    def run():
        total = torch.vmap(loss)(w, x).sum()
        (grad,) = torch.autograd.grad(total, w, create_graph=True)
        (second,) = torch.autograd.grad(grad.square().sum(), w)
        return second

    return run


def test_repeats_bit_by_bit():
    run = program()
    assert len({tensor_bytes(run, CPU)["peak"] for _ in range(3)}) == 1


def test_agrees_with_the_profiler():
    run = program()
    run()
    measured = tensor_bytes(run, CPU)["peak"]
    with torch.profiler.profile(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as profile:
        result = run()
    del result
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    assert peak > 500 * KB
    assert measured == pytest.approx(peak, rel=0.01)


def test_checkpointing_is_seen():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 100, generator=generator, requires_grad=True)

    def block(y):
        for _ in range(5):
            y = torch.tanh(y)
        return y

    def run(keep):
        y = x
        for _ in range(6):
            y = block(y) if keep else checkpoint(block, y, use_reentrant=False)
        return torch.autograd.grad(y.sum(), x)

    kept, recomputed = (tensor_bytes(lambda k=k: run(k), CPU)["peak"] for k in (True, False))
    assert recomputed < 0.6 * kept


def test_cyclic_garbage_is_there_in_every_run():
    """Else the peak would depend on when the collector happens to run."""

    def run():
        for _ in range(50):
            cycle = [torch.zeros(KB, dtype=torch.uint8)]
            cycle.append(cycle)
            junk = [[] for _ in range(1000)]
        return junk

    assert tensor_bytes(run, CPU)["peak"] == 50 * KB


def test_other_modes_still_work_inside():
    class Log(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Log.seen += 1
            return func(*args, **(kwargs or {}))

    def run():
        with Log():
            return torch.ones(KB, dtype=torch.uint8) + 1

    assert tensor_bytes(run, CPU)["peak"] == 2 * KB
    assert Log.seen == 2


def test_unrolled_maml_grows_with_the_steps_and_imaml_does_not():
    problem = Sinusoid(network=MLP(hidden=(20, 20), activation="tanh"))
    generator = torch.Generator().manual_seed(0)
    meta, tasks = problem.init(generator), problem.sample(generator, 4)

    def peak(method):
        return tensor_bytes(lambda: method(Bilevel(problem, tasks, meta)), CPU)["peak"]

    def peaks(make):
        return [peak(make(GradientDescent(steps=k))) for k in (4, 8, 12)]

    iterate = 4 * meta.nbytes  # T x P numbers
    unrolled = peaks(lambda inner: MAML(inner=inner, backward="unrolled"))
    a_step = (unrolled[2] - unrolled[1]) / 4
    assert a_step > 2 * iterate
    assert unrolled[1] - unrolled[0] == pytest.approx(4 * a_step, rel=0.01)
    adjoint = peaks(lambda inner: MAML(inner=inner))
    assert adjoint[2] - adjoint[1] == pytest.approx(4 * iterate, rel=0.01)
    implicit = peaks(lambda inner: IMAML(inner=inner))
    assert len(set(implicit)) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_bytes_are_those_of_the_cpu():
    cuda = torch.device("cuda")
    made = tensor_bytes(lambda: torch.zeros(64 * 2**20 + 1, dtype=torch.uint8, device=cuda), cuda)
    assert made["meter"] == "cuda_requested"
    assert made["peak"] == 64 * 2**20 + 1
    assert made["reserved_peak"] >= made["allocated_peak"] > made["peak"]
    assert tensor_bytes(lambda: by_hand(cuda), cuda)["peak"] == 380 * KB
