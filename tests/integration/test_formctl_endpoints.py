"""`formctl endpoints` as others rely on it: files are true, whole, and never empty by mistake."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from eventually import eventually
from fake_control import FakeControl
from formctl_program import Formctl, Running, finished

from formation.v1 import control_pb2, types_pb2

TEMPLATE = """\
{% for name, group in types.items() %}
upstream {{ app }}_{{ name }} {
  {% for e in group %}
  server {{ e.target }}; # {{ e.name }} v{{ e.release }} on {{ e.host }}
  {% endfor %}
}
{% endfor %}
# {{ endpoints | length }}
"""


@pytest.fixture
async def shop(formctl: Formctl) -> Formctl:
    assert (await formctl("apply", "-m", "web=2,worker=1")).code == 0
    formctl.write("upstreams.j2", TEMPLATE)
    return formctl


@asynccontextmanager
async def keeping(shop: Formctl, *words: str) -> AsyncIterator[tuple[Running, Path]]:
    out = shop.project / "out.conf"
    async with shop.running("endpoints", "-w", "--out", str(out), *words) as running:
        yield running, out


def reads(path: Path, what: Callable[[str], bool]) -> Callable[[], bool]:
    return lambda: path.exists() and what(path.read_text())


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


async def test_a_template_says_several_types_in_one_file(shop: Formctl) -> None:
    done = await shop("endpoints", "--template", "upstreams.j2")
    assert done.out.splitlines() == [
        "upstream shop_web {",
        "  server 127.0.0.1:20001; # web.1 v1 on b",
        "  server 127.0.0.1:20002; # web.2 v1 on a",
        "}",
        "upstream shop_worker {",
        "  server 127.0.0.1:20003; # worker.1 v1 on b",
        "}",
        "# 3",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n{% for %}", "t.j2:2: Expected an expression"),
        ("a\n{{ nothing.x }}", "t.j2:2: 'nothing' is undefined"),
        ("{{ ''.__class__.__mro__ }}", "t.j2:1: access to attribute '__class__'"),
        ("{{ 1 / 0 }}", "t.j2:1: division by zero"),
    ],
)
async def test_what_is_wrong_with_a_template_is_told_with_its_place(
    shop: Formctl, text: str, said: str
) -> None:
    shop.write("t.j2", text)
    for words in ((), ("-w", "--out", "t.out")):
        done = await shop("endpoints", "--template", "t.j2", *words)
        assert done.code in (1, 2)
        assert said in done.err
    assert not (shop.project / "t.out").exists()


async def test_without_jinja_it_is_told_how_to_get_it(shop: Formctl, tmp_path: Path) -> None:
    (tmp_path / "jinja2").mkdir()
    (tmp_path / "jinja2" / "__init__.py").write_text("raise ImportError\n")
    words = ("endpoints", "--template", "upstreams.j2")
    done = await finished(await shop.start(*words, PYTHONPATH=str(tmp_path)))
    assert (done.code, done.err) == (
        1,
        "formctl: --template needs Jinja: pip install 'formctl[templates]'\n",
    )


async def test_a_file_keeps_its_mode_and_a_link_its_target_and_what_is_the_same_is_not_told_again(
    shop: Formctl,
) -> None:
    target, ran = shop.project / "real.conf", shop.project / "ran"
    target.touch(mode=0o640)
    (shop.project / "out.conf").symlink_to(target)
    words = ("web", "-o", "env", "--out", "out.conf", "--run", f"sh -c 'echo >> {ran}'")
    assert (await shop("endpoints", *words)).code == 0
    assert target.read_text() == "SHOP_WEB_ENDPOINTS=127.0.0.1:20001,127.0.0.1:20002\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    before = target.stat()
    assert (await shop("endpoints", *words)).code == 0
    assert (target.stat().st_ino, lines_of(ran)) == (before.st_ino, 1)
    assert sorted(os.listdir(shop.project)) == [
        "Procfile", "out.conf", "ran", "real.conf", "upstreams.j2",
    ]  # fmt: skip


async def test_a_command_that_fails_is_an_error_or_when_watching_told_and_tried_at_the_next_change(
    shop: Formctl,
) -> None:
    ran = shop.project / "ran"
    failing = ("--run", f"sh -c 'echo >> {ran}; exit 3'")
    done = await shop("endpoints", "web", "--out", "once.conf", *failing)
    assert (done.code, done.err.splitlines()[-1][-12:]) == (1, "ended with 3")
    async with keeping(shop, "web", *failing) as (running, out):
        await eventually(lambda: lines_of(ran) == 2)
        await shop("scale", "web=3")
        await eventually(lambda: lines_of(ran) == 3)
        assert "20004" in out.read_text()
        running.process.terminate()
        said = (await running.end()).err
    assert said.count("ended with 3") >= 1


async def test_while_nobody_answers_the_file_stays_and_it_is_said_once(
    fake: FakeControl, formctl: Formctl, home: Path
) -> None:
    socket = f"unix:{home}/c.sock"
    formctl.environ["FORMATION_COORDINATOR"] = socket
    async with fake.serving(socket):
        assert (await formctl("apply", "-m", "web=2")).code == 0
    async with keeping(formctl, "web") as (running, out):
        assert running.process.stderr is not None
        first = (await running.process.stderr.readline()).decode()
        assert first.endswith("does it run?; trying again\n")
        async with fake.serving(socket):
            await eventually(reads(out, lambda text: text.count("20") == 2))
        before = out.read_text()
        lost = (await running.process.stderr.readline()).decode()
        assert lost.endswith("lost; trying again\n")
        assert out.read_text() == before
        async with fake.serving(socket):
            await formctl("scale", "web=3")
            await eventually(reads(out, lambda text: text.count("20") == 3))
        running.process.terminate()
        # The second server has gone again by now; the first outage was told once.
        assert (await running.end()).err.count("trying again") <= 1


async def test_what_cannot_be_known_empties_no_file_and_a_scale_to_nothing_does(
    shop: Formctl, fake: FakeControl
) -> None:
    async with keeping(shop, "web", "-o", "env") as (running, out):
        await eventually(reads(out, lambda text: text.count("127.0.0.1:") == 2))
        before = out.read_text()

        def unheard(view: control_pb2.InstanceView) -> None:
            view.host_silent = True
            view.status.state = types_pb2.INSTANCE_STATE_WAITING

        fake.report("web.1", unheard)
        await eventually(reads(out, lambda text: text.count("127.0.0.1:") == 1))
        fake.report("web.2", unheard)
        assert running.process.stderr is not None
        said = (await running.process.stderr.readline()).decode()
        assert "what was told last stays: web.1 is on b, which is silent" in said
        assert out.read_text() != before
        assert out.read_text().count("127.0.0.1:") == 1
        await shop("scale", "web=0")
        await eventually(reads(out, lambda text: text == "SHOP_WEB_ENDPOINTS=\n"))


@pytest.mark.parametrize("change", ["draining", "surplus"])
async def test_one_that_is_on_its_way_out_is_no_endpoint_at_once(
    shop: Formctl, fake: FakeControl, change: str
) -> None:
    def leave(view: control_pb2.InstanceView) -> None:
        view.surplus = change == "surplus"
        if change == "draining":
            view.status.state, view.status.draining = types_pb2.INSTANCE_STATE_STOPPING, True

    async with keeping(shop, "web", "-o", "env") as (_, out):
        await eventually(reads(out, lambda text: text.count("127.0.0.1:") == 2))
        fake.report("web.1", leave)
        await eventually(reads(out, lambda text: text.count("127.0.0.1:") == 1))
    shown = {"draining": "draining", "surplus": "leaving"}[change]
    assert shown in (await shop("ps")).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--run", "true"), "--run is for what --out has written"),
        (("--out", "x", "--run", " "), "--run: no command"),
        (("--out", "x", "--run", "'"), "No closing quotation"),
        (("-o", "env", "--template", "x"), "two ways to say it"),
        (("--template", "none.j2"), "none.j2: No such file or directory"),
    ],
)
async def test_what_means_nothing_is_refused(
    shop: Formctl, words: tuple[str, ...], said: str
) -> None:
    done = await shop("endpoints", "web", *words)
    assert (done.code, said in done.err) == (2, True)


async def test_a_directory_that_is_not_there_and_a_program_that_is_not_are_one_line_each(
    shop: Formctl,
) -> None:
    done = await shop("endpoints", "web", "--out", "no/such/x")
    assert (done.code, done.err) == (1, "formctl: no/such/x: No such file or directory\n")
    done = await shop("endpoints", "web", "--out", "x", "--run", "no-such-program")
    assert (done.code, done.err) == (1, "formctl: no-such-program: No such file or directory\n")
