"""tools/audit.py: what it makes of pip-audit's answer."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).resolve().parents[2] / "tools" / "audit.py"


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WEAK = {
    "name": "grpcio",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}, {"id": "PYSEC-2", "fix_versions": []}],
}
FINE = {"name": "click", "version": "8.2", "vulns": []}
OURS = {"name": "formctl", "skip_reason": "distribution marked as editable"}
UNKNOWN = {"name": "numpy", "skip_reason": "not found on PyPI"}


def test_a_weakness_is_named_with_its_cure_and_fails(audit: ModuleType) -> None:
    assert audit.report([WEAK, FINE, OURS]) == (
        [
            "grpcio 1.0: PYSEC-1, mended in 1.1",
            "grpcio 1.0: PYSEC-2, mended in no version yet",
        ],
        True,
    )


def test_what_was_not_looked_at_is_said_and_does_not_fail(audit: ModuleType) -> None:
    assert audit.report([FINE, OURS, UNKNOWN]) == (
        [
            "not looked at, PyPI does not know them: numpy",
            "1 packages without known weaknesses",
        ],
        False,
    )


def test_without_an_answer_it_says_so_and_does_not_fail(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for answer in (None, [], [OURS, UNKNOWN]):
        monkeypatch.setattr(audit, "look", partial(list, answer) if answer else lambda: None)
        audit.main()
        assert "cannot be reached" in capsys.readouterr().out
