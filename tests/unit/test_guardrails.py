"""Who a formation may run as on this machine, in a table."""

from __future__ import annotations

import pytest

from formation_agent.guardrails import OPEN, Guardrails, objection

NAMED = Guardrails(users=("shop", "blog"))
ROOT_TOO = Guardrails(users=("shop", "root"))


@pytest.mark.parametrize(
    ("rails", "name", "uid", "gids", "said"),
    [
        (Guardrails(), "shop", 1000, {1000}, ""),
        (Guardrails(), "root", 0, {0}, "would run as root"),
        (Guardrails(), "toor", 0, {1000}, "would run as root"),
        (Guardrails(), "shop", 1000, {1000, 0}, "user shop is in root's group"),
        (OPEN, "root", 0, {0}, ""),
        (NAMED, "shop", 1000, {1000}, ""),
        (NAMED, "shop", 1000, {1000, 0}, ""),
        (NAMED, "mail", 1001, {1001}, "may not run as mail here, only as shop, blog"),
        (NAMED, "root", 0, {0}, "would run as root"),
        (ROOT_TOO, "root", 0, {0}, ""),
        (ROOT_TOO, "mail", 1001, {0}, "may not run as mail here"),
    ],
)
def test_nobody_runs_as_whom_the_machines_owner_has_not_named(
    rails: Guardrails, name: str, uid: int, gids: set[int], said: str
) -> None:
    refused = objection(rails, name=name, uid=uid, gids=gids)
    assert refused.startswith(said)
    assert bool(refused) == bool(said)
