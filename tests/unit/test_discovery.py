"""Finding the coordinator: the nearest word wins, and every failure says what to do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from formation import contexts, devclusters, discovery
from formation.devclusters import DevCluster
from formctl.dev import rundir
from formctl.errors import InputError


class Surroundings:
    """A home, a runtime directory and dev clusters of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {"XDG_CONFIG_HOME": str(root / "config")}
        self.running = ExitStack()

    def contexts(self, text: str) -> None:
        path = Path(contexts.context_path(self.environ))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def project(self, name: str) -> str:
        path = self.root / "projects" / name
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    def dev(self, name: str) -> str:
        project = self.project(name)
        run = rundir.acquire(project)
        self.running.callback(run.release)
        coordinator = f"unix:{run.socket}"
        run.publish(
            DevCluster(project=project, app=name, coordinator=coordinator, started_at="now")
        )
        return coordinator

    def find(self, flag: str | None = None, *, directory: str = "/", **environ: str) -> str:
        found = discovery.find_target(flag, {**self.environ, **environ}, directory)
        return ",".join(found.addresses)


@pytest.fixture
def around(monkeypatch: pytest.MonkeyPatch) -> Iterator[Surroundings]:
    """Short paths: sockets go below the runtime directory."""
    with tempfile.TemporaryDirectory(prefix="fc-") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        surroundings = Surroundings(Path(short).resolve())
        with surroundings.running:
            yield surroundings


def test_the_nearest_word_wins(around: Surroundings) -> None:
    around.contexts('current = "prod"\n[contexts.prod]\ncoordinator = ["p:1", "q:2"]\n')
    assert around.find() == "p:1,q:2"
    dev = around.dev("shop")
    assert around.find() == dev
    assert around.find(FORMATION_CONTEXT="prod") == "p:1,q:2"
    assert around.find(FORMATION_CONTEXT="prod", FORMATION_COORDINATOR="e:1") == "e:1"
    assert around.find("f:1,[::1]:2", FORMATION_COORDINATOR="e:1") == "f:1,[::1]:2"


def test_without_any_word_all_ways_are_named(around: Surroundings) -> None:
    with pytest.raises(InputError) as caught:
        around.find()
    for way in ("formctl dev", "--coordinator", "FORMATION_COORDINATOR", "context.toml"):
        assert way in str(caught.value)


@pytest.mark.parametrize("bad", ["a", "a:b", ":1", "::1:7100", "a:0", "unix:x", "a:1,b", ","])
def test_an_address_that_is_none_is_refused_with_its_origin(around: Surroundings, bad: str) -> None:
    with pytest.raises(InputError, match="--coordinator: "):
        around.find(bad)


def test_the_dev_cluster_around_this_directory_is_meant(around: Surroundings) -> None:
    shop, inner = around.dev("shop"), around.dev("shop/inner")
    assert around.find(directory=around.project("shop")) == shop
    assert around.find(directory=around.project("shop/src")) == shop
    assert around.find(directory=around.project("shop/inner/src")) == inner
    with pytest.raises(InputError, match="several dev clusters run") as caught:
        around.find(directory=around.project("shopping"))
    assert shop in str(caught.value)


def test_a_dev_cluster_tells_its_app(around: Surroundings) -> None:
    around.dev("shop")
    assert discovery.find_target(None, around.environ, "/").app == "shop"


def test_the_directory_of_a_killed_dev_cluster_is_not_taken_for_one(around: Surroundings) -> None:
    around.dev("shop")
    (path,) = Path(devclusters.base_dir()).iterdir()
    text = (path / "cluster.json").read_text()
    around.running.close()
    path.mkdir(mode=0o700)
    (path / "cluster.json").write_text(text)
    (path / "lock").touch()
    with pytest.raises(InputError, match="no coordinator is known"):
        around.find()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("current = ", "context.toml: "),
        ("", "no current context"),
        ('current = "x"', "no context 'x' in .*; there is none"),
        ('current = "x"\n[contexts.y]\ncoordinator = "a:1"', "there is y"),
        ('current = "x"\n[contexts.x]', "contexts.x.coordinator: must be a list"),
        (
            'current = "x"\n[contexts.x]\ncoordinator = [1]',
            "contexts.x.coordinator: must be a list",
        ),
        ('current = "x"\n[contexts.x]\ncoordinator = ["a"]', "contexts.x.coordinator: 'a' is not"),
    ],
)
def test_a_context_file_that_does_not_help_says_where(
    around: Surroundings, text: str, message: str
) -> None:
    around.contexts(text)
    with pytest.raises(InputError, match=message):
        around.find()


def test_a_context_may_have_one_address_as_text(around: Surroundings) -> None:
    around.contexts('current = "x"\n[contexts.x]\ncoordinator = "a:1"\n')
    assert around.find() == "a:1"
