"""Most of a minute of everything going wrong on a live cluster; `make chaos` runs longer ones."""

from __future__ import annotations

import pytest
from chaos.run import run
from chaos.schedule import KINDS, Places, schedule
from lab import required

SEED, LENGTH_S = 2, 45.0
PLACES = Places(("e1", "e2", "e3"), ("c1", "c2", "c3"), ("a1", "a2", "a3", "a4"))


@pytest.mark.timeout(480)  # it takes its time, and the look afterwards may take two
def test_no_fault_breaks_a_promise(capsys: pytest.CaptureFixture[str]) -> None:
    required()
    result = run(SEED, LENGTH_S, print)
    with capsys.disabled():
        print("\n" + "\n".join(result.lines()))
    assert not result.violations
    assert sum(command.acknowledged for command in result.commands) > 10
    assert result.answers["ok"] > 100


def test_a_seed_always_gives_the_same_faults_and_seeds_give_all_kinds() -> None:
    one = schedule(7, 600.0, PLACES)
    assert one == schedule(7, 600.0, PLACES)
    assert one != schedule(8, 600.0, PLACES)
    met = {fault.kind for seed in range(20) for fault in schedule(seed, 600.0, PLACES)}
    assert met == set(KINDS)
    for fault in one:
        others = [
            o for o in one if o is not fault and o.at_s < fault.ends_s and fault.at_s < o.ends_s
        ]
        assert not {t for o in others for t in o.targets} & set(fault.targets)
