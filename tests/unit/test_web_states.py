"""What the page's script says of numbers is what they mean here."""

from __future__ import annotations

import re
from importlib.resources import files

from formation.model import InstanceState

SCRIPT = (files("formation_coordinator.web") / "static" / "data.js").read_text()


def test_every_state_has_its_name_and_a_colour() -> None:
    listed = re.search(r"STATES = \[(.*?)\]", SCRIPT, re.DOTALL)
    assert listed is not None
    names = re.findall(r'"(\w*)"', listed[1])
    assert names == ["", *(state.name.lower() for state in sorted(InstanceState))]
    coloured = {int(number) for number in re.findall(r"\[(\d+), (?:GOOD|BUSY|BAD)\]", SCRIPT)}
    assert coloured == set(InstanceState) - {InstanceState.STOPPED}
