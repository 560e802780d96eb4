"""Which orders an agent obeys."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from formation.memory import AgentMemory
from formation.model import Assignment, Assignments, ProcessType, Release, Slot
from formation_agent import orders

V1 = Release(app="shop", number=1, types=(ProcessType(name="web", command="x"),))
ONE, TWO = (Assignment(uid=f"u{n}", slot=Slot("shop", "web", n), release=1) for n in (1, 2))
MEMORY = AgentMemory(
    agent_id="a", cluster_id="c", epoch=10, generation=5, assigned=(ONE,), releases=(V1,)
)


def complete(*instances: Assignment, epoch: int = 10, results_in: int = 6) -> Assignments:
    return Assignments(complete=True, epoch=epoch, results_in=results_in, instances=instances)


def change(*, applies_to: int = 5, removed: tuple[str, ...] = ()) -> Assignments:
    return Assignments(
        complete=False,
        epoch=10,
        applies_to=applies_to,
        results_in=6,
        instances=(TWO,),
        removed_uids=removed,
    )


def obeyed(verdict: orders.Verdict) -> tuple[str, ...]:
    assert isinstance(verdict, orders.Obey)
    return tuple(item.uid for item in verdict.assigned)


def test_a_complete_order_replaces_everything() -> None:
    assert obeyed(orders.judge(MEMORY, complete(TWO))) == ("u2",)
    assert obeyed(orders.judge(MEMORY, complete())) == ()


def test_the_same_document_again_is_obeyed_and_so_is_a_new_leader() -> None:
    assert obeyed(orders.judge(MEMORY, complete(ONE, results_in=5))) == ("u1",)
    assert obeyed(orders.judge(MEMORY, complete(ONE, epoch=11))) == ("u1",)


def test_a_change_touches_only_what_it_names() -> None:
    assert obeyed(orders.judge(MEMORY, change())) == ("u1", "u2")
    assert obeyed(orders.judge(MEMORY, change(removed=("u1", "unknown")))) == ("u2",)


def test_a_gap_asks_for_everything() -> None:
    assert isinstance(orders.judge(MEMORY, change(applies_to=4)), orders.Resend)
    assert isinstance(orders.judge(MEMORY, change(applies_to=7)), orders.Resend)


@pytest.mark.parametrize(
    ("order", "why"),
    [
        (complete(epoch=9), "refused orders of leader epoch 9, 10 was seen before"),
        (complete(results_in=4), "refused orders of generation 4, 5 was seen before"),
        # A restored store whose leader key was made anew.
        (complete(epoch=99, results_in=4), "refused orders of generation 4"),
        (replace(change(), epoch=9), "refused orders of leader epoch 9"),
    ],
)
def test_what_is_older_than_what_was_seen_is_refused(order: Assignments, why: str) -> None:
    verdict = orders.judge(MEMORY, order)
    assert isinstance(verdict, orders.Refuse)
    assert verdict.complaint.startswith(why)
    assert verdict.older


def test_a_new_epoch_of_the_cluster_is_obeyed_however_old_it_looks() -> None:
    """An operator has looked, and said that the store counts as it is."""
    order = replace(complete(TWO, epoch=1, results_in=1), cluster_epoch=1)
    verdict = orders.judge(MEMORY, order)
    assert obeyed(verdict) == ("u2",)
    assert isinstance(verdict, orders.Obey)
    assert (verdict.epoch, verdict.generation, verdict.cluster_epoch) == (1, 1, 1)
    part = replace(change(), cluster_epoch=1)
    assert isinstance(orders.judge(MEMORY, part), orders.Resend), "it says nothing of the rest"


def test_an_older_epoch_of_the_cluster_is_refused() -> None:
    memory = replace(MEMORY, cluster_epoch=2)
    verdict = orders.judge(memory, replace(complete(epoch=99, results_in=99), cluster_epoch=1))
    assert isinstance(verdict, orders.Refuse)
    assert verdict.older
    assert verdict.complaint.startswith("refused orders of cluster epoch 1, 2 was seen before")


def test_an_order_without_its_release_is_refused_whole() -> None:
    stranger = structs.replace(TWO, release=2)
    verdict = orders.judge(MEMORY, complete(ONE, stranger))
    assert isinstance(verdict, orders.Refuse)
    assert verdict.complaint.startswith("shop/web.2 shall run v2")
    assert not verdict.older, "that does not say that the store went back"


def test_releases_that_nothing_needs_are_dropped() -> None:
    v2 = replace(V1, number=2)
    verdict = orders.judge(
        MEMORY, replace(complete(structs.replace(ONE, release=2)), releases=(v2,))
    )
    assert isinstance(verdict, orders.Obey)
    assert verdict.releases == (v2,)


def test_only_the_cluster_that_was_joined_is_obeyed() -> None:
    assert orders.judge_cluster(MEMORY, "c") == ""
    assert orders.judge_cluster(replace(MEMORY, cluster_id=""), "d") == ""
    assert "belongs to cluster d, this agent to c" in orders.judge_cluster(MEMORY, "d")


@pytest.mark.parametrize(
    "order",
    [
        complete(TWO, results_in=5),
        complete(ONE, TWO, results_in=5),
        complete(results_in=5),
        replace(change(), results_in=5),
    ],
)
def test_the_generation_that_is_followed_with_other_instances_is_refused(
    order: Assignments,
) -> None:
    verdict = orders.judge(MEMORY, order)
    assert isinstance(verdict, orders.Refuse)
    assert verdict.complaint.startswith("refused orders of another generation 5, one was seen")


@pytest.mark.parametrize(
    "memory",
    [
        replace(MEMORY, assigned=()),  # after a goodbye that was taken
        replace(MEMORY, generation=4, assigned=(TWO,)),  # a commit that failed changed nothing
    ],
)
def test_what_is_not_followed_refuses_no_order(memory: AgentMemory) -> None:
    assert obeyed(orders.judge(memory, complete(ONE, results_in=5))) == ("u1",)


def test_a_document_that_is_asked_for_again_is_obeyed_under_a_new_leader_too() -> None:
    again = complete(structs.replace(ONE, restart_mark=3), epoch=11, results_in=5)
    assert obeyed(orders.judge(MEMORY, again)) == ("u1",)
    nothing_new = Assignments(complete=False, epoch=10, applies_to=5, results_in=5)
    assert obeyed(orders.judge(MEMORY, nothing_new)) == ("u1",)


def test_another_try_of_the_same_stay_is_obeyed_as_the_next_document() -> None:
    retried = structs.replace(ONE, retry_mark=1)
    for order in (complete(retried), replace(change(), instances=(retried,))):
        verdict = orders.judge(MEMORY, order)
        assert isinstance(verdict, orders.Obey)
        assert (verdict.assigned, verdict.generation) == ((retried,), 6)
