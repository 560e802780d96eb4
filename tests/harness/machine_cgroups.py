"""The root of cgroup v2: only there a test may have processes beside cgroups with controllers."""

from __future__ import annotations

import os

import pytest

from formation_agent import cgroups


def root() -> str:
    """Its directory. Skips the test where nobody may make cgroups there, with the reason."""
    path, _ = cgroups.own()
    while path and not cgroups.is_root(path):
        path = os.path.dirname(path) if os.path.exists(f"{path}/cgroup.procs") else ""
    if not path:
        pytest.skip("the root of cgroup v2 is not to be seen here")
    if not os.access(path, os.W_OK):
        pytest.skip("this process may make no cgroups")
    return path
