"""Packing cells into jobs: all of them, once, alike in what they need, none too long."""

from hypothesis import given
from hypothesis import strategies as st

from slurm.pack import Item, Needs, Pack, Packing, arrays, bucket, pack

NEEDS = [Needs(), Needs(memory_gb=4.0), Needs(gpus=1), Needs(threads=4)]

items = st.lists(st.tuples(st.floats(0.01, 5000), st.sampled_from(NEEDS)), max_size=60).map(
    lambda rows: [Item(str(i), seconds, needs) for i, (seconds, needs) in enumerate(rows)]
)
ways = st.builds(
    Packing,
    minutes=st.floats(0.1, 30),
    cells=st.none() | st.integers(1, 10),
    workers=st.integers(1, 4),
    most_memory_gb=st.floats(4, 40),
)


@given(items, ways)
def test_every_cell_is_in_one_pack_of_its_class_and_in_order(some, how):
    packs = pack(some, how)
    of = {item.id: item for item in some}
    assert sorted(cell for one in packs for cell in one.ids) == sorted(of)
    assert [one.number for one in packs] == list(range(len(packs)))
    for one in packs:
        assert one.ids
        assert {of[cell].needs for cell in one.ids} == {one.needs}
        assert one.seconds == sum(of[cell].seconds for cell in one.ids)
        assert 1 <= one.workers <= min(how.workers, len(one.ids))
        assert one.workers * one.needs.memory_gb <= how.most_memory_gb
    for needs in NEEDS:
        packed = [cell for one in packs if one.needs == needs for cell in one.ids]
        assert packed == [item.id for item in some if item.needs == needs]
    assert packs == pack(list(some), how)


@given(items, ways)
def test_packs_are_filled_up_to_the_goal_and_not_above(some, how):
    packs = pack(some, how)
    of = {item.id: item for item in some}
    for one, after in zip(packs, [*packs, None][1:], strict=True):
        if how.cells is not None:
            assert len(one.ids) <= how.cells
            continue
        goal = 60 * how.minutes
        room = goal * how.workers_for(one.needs)
        assert one.seconds <= room * (1 + 1e-9) or len(one.ids) == 1
        longest = max(of[cell].seconds for cell in one.ids)
        assert longest <= goal or len(one.ids) == 1
        if after is not None and after.needs == one.needs and longest <= goal:
            first = of[after.ids[0]].seconds
            assert one.seconds + first > room * (1 - 1e-9) or first > goal


def test_a_long_cell_has_a_job_of_its_own():
    some = [Item("a", 60), Item("long", 7200), Item("b", 60), Item("c", 60)]
    assert [one.ids for one in pack(some, Packing(minutes=15))] == [("a",), ("long",), ("b", "c")]
    assert [one.ids for one in pack(some, Packing(minutes=15, workers=4))] == [("a",), ("long",), ("b", "c")]


def test_workers_share_the_minutes_and_the_memory():
    some = [Item(str(i), 60, Needs(memory_gb=8.0)) for i in range(60)]
    alone = pack(some, Packing(minutes=10))
    assert [len(one.ids) for one in alone] == [10] * 6
    together = pack(some, Packing(minutes=10, workers=3))
    assert [(len(one.ids), one.workers, one.minutes) for one in together] == [(30, 3, 10.0)] * 2
    tight = pack(some, Packing(minutes=10, workers=3, most_memory_gb=20.0))
    assert [(len(one.ids), one.workers) for one in tight] == [(20, 2)] * 3


def test_arrays_have_one_class_and_so_many_tasks():
    needs = [Needs(), Needs(memory_gb=2.0)]
    packs = [Pack(i, needs[i % 2], 1, 1.0, (str(i),)) for i in range(11)]
    split = arrays(packs, 3)
    assert [[one.number for one in group] for group in split] == [[0, 2, 4], [6, 8, 10], [1, 3, 5], [7, 9]]
    assert arrays([], 3) == []


def test_memory_comes_in_powers_of_two_and_in_the_rest_of_the_largest_job():
    assert [bucket(gb) for gb in (0.1, 1.0, 1.01, 3.0, 17.0)] == [1.0, 1.0, 2.0, 4.0, 32.0]
    assert bucket(17.0, most=23.5) == 23.5
    assert bucket(7.0, most=23.5) == 8.0
    assert bucket(0.7, most=0.8) == 0.8
