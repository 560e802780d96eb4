"""The real formctl program, and a coordinator of ours for it to call."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fake_control import FakeControl
from formctl_program import Formctl


@pytest.fixture
def fake() -> FakeControl:
    return FakeControl()


@pytest.fixture
def home() -> Iterator[Path]:
    """Short: a socket goes into it."""
    with tempfile.TemporaryDirectory(prefix="fc-") as short:
        yield Path(short)


@pytest.fixture
async def formctl(fake: FakeControl, tmp_path: Path, home: Path) -> AsyncIterator[Formctl]:
    project = tmp_path / "shop"
    project.mkdir()
    async with fake.serving() as address:
        found = Formctl(project, home, address)
        found.write("Procfile", "web: ./web\nworker: ./worker\n")
        yield found
