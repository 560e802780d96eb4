"""What differs between two words of one host."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from formation.model import InstanceState, InstanceStatus, Slot
from formation_coordinator.world import status_changes

STATES = (InstanceState.STARTING, InstanceState.HEALTHY)
POOL = [
    InstanceStatus(uid=f"web.{n}-a", slot=Slot("shop", "web", n), release=1, state=state)
    for n in range(1, 5)
    for state in STATES
]


def tables() -> st.SearchStrategy[list[InstanceStatus]]:
    return st.lists(st.sampled_from(POOL), unique_by=lambda item: item.uid)


@given(tables(), tables())
def test_it_says_what_two_dictionaries_would(
    before: list[InstanceStatus], after: list[InstanceStatus]
) -> None:
    changes = status_changes(before, after)
    old, new = ({item.uid: item for item in items} for items in (before, after))
    said = {uid: (old.get(uid), item) for uid, item in new.items() if old.get(uid) is not item}
    assert {item.uid: (was, item) for was, item in changes.said} == said
    assert {item.uid: item for item in changes.gone} == {
        uid: item for uid, item in old.items() if uid not in new
    }


@given(tables(), st.data())
def test_of_what_is_only_told_anew_nothing_is_gone(
    before: list[InstanceStatus], data: st.DataObject
) -> None:
    table = {item.uid: item for item in before}
    for item in data.draw(tables()):
        table[item.uid] = item
    changes = status_changes(before, [*table.values()])
    assert not changes.gone
    assert len(changes.said) == sum(item not in before for item in table.values())
