"""From a type to what the keeper is asked for; users, ports and abilities of this host."""

from __future__ import annotations

import getpass
import grp
import logging
import os
import pwd
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from formation.artifacts import Artifact
from formation.builds import Build
from formation.model import Ability, Assignment, Limits, ProcessType, Release, Slot
from formation.secrets import Secret
from formation_agent import users
from formation_agent.buildplan import code_name
from formation_agent.codedirs import CodeDirs
from formation_agent.environment import Surroundings
from formation_agent.guardrails import OPEN, Guardrails
from formation_agent.happenings import Sandbox
from formation_agent.launch import Launch, Launcher, LaunchError, Powers, powers_of
from formation_agent.ports import Ports
from formation_agent.processes import Contained, SpawnOptions, User
from formation_agent.secretfiles import NOWHERE, SecretFiles
from formation_agent.users import Account, NoAccount, account

ROOT = 0
MB = 1 << 20
ALL = Powers(abilities=tuple(Ability))
NONE = Powers(inability="cgroup v2 is not mounted; cannot switch users: not root")


def release_of(*types: ProcessType, workdir: str = "/srv/shop") -> Release:
    return Release(app="shop", number=1, types=types, workdir=workdir)


def stay(type_name: str = "web", ordinal: int = 1) -> Assignment:
    return Assignment(uid=f"u{ordinal}", slot=Slot("shop", type_name, ordinal), release=1)


class Bench:
    """A launcher whose ports and time are the test's."""

    def __init__(
        self,
        powers: Powers = ALL,
        rails: Guardrails = OPEN,
        files: SecretFiles = NOWHERE,
        code: CodeDirs | None = None,
        sandbox: Sandbox | None = None,
    ) -> None:
        self.taken: set[int] = set()
        self.now_s = 0.0
        around = Surroundings(environ={"PATH": "/usr/bin:/bin"}, host="b", agent_id="a1")
        ports = Ports(range(20000, 20010), is_free=self._is_free)
        self.launcher = Launcher(
            around, ports, None, powers, rails, files, sandbox, lambda: self.now_s, code
        )

    def _is_free(self, number: int) -> bool:
        if number < 1024:
            raise PermissionError
        return number not in self.taken

    def launch(self, release: Release | None = None, **fields: Any) -> Launch:
        spec = ProcessType(name="web", command="sleep 9", **fields)
        return self.launcher.prepare(stay(), release or release_of(spec))


def refused(bench: Bench, **fields: Any) -> str:
    with pytest.raises(LaunchError) as caught:
        bench.launch(**fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_plain_type_asks_for_nothing_special() -> None:
    launch = Bench().launch()
    assert (launch.argv, launch.cwd, launch.port) == (("sleep", "9"), "/srv/shop", 20000)
    assert (launch.options, launch.notes) == (SpawnOptions(), ())


def test_what_a_type_asks_for_reaches_the_keeper() -> None:
    limits = Limits(cpus=0.5, memory_bytes=64 * MB, pids=10, rlimits={"nofile": 100, "core": -1})
    options = Bench().launch(umask=0o27, nice=5, limits=limits, notify=True).options
    assert options == SpawnOptions(
        umask=0o27,
        nice=5,
        rlimits={"nofile": (100, 100), "core": (-1, -1)},
        limits={"cpus": 0.5, "memory_bytes": 64 * MB, "pids": 10},
        notify=True,
    )


def test_who_must_feed_a_watchdog_needs_the_socket_for_it() -> None:
    launch = Bench().launch(watchdog_s=3)
    assert launch.options.notify
    assert launch.env["WATCHDOG_USEC"] == "3000000"


@pytest.mark.parametrize(
    ("of_release", "of_type", "cwd"),
    [
        ("/srv", "", "/srv"),
        ("/srv", "api", "/srv/api"),
        ("/srv", "/opt/api", "/opt/api"),
        ("", "", "/"),
        ("", "api", "/api"),
    ],
)
def test_a_directory_is_absolute_or_below_the_release_s_or_home(
    of_release: str, of_type: str, cwd: str
) -> None:
    spec = ProcessType(name="web", command="sleep 9", workdir=of_type)
    assert Bench().launch(release_of(spec, workdir=of_release)).cwd == cwd


def test_an_unknown_rlimit_is_refused_by_name() -> None:
    reason = refused(Bench(), limits=Limits(rlimits={"bananas": 1}))
    assert reason == "rlimit bananas is not known on this host: take it out of the type"


# -- abilities -------------------------------------------------------------------------------------


def test_a_limit_that_nobody_enforces_here_is_left_out_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    has_pids = (Ability.CGROUP, Ability.PIDS)
    bench = Bench(Powers(abilities=has_pids, inability="no memory controller"))
    limits = Limits(cpus=1, memory_bytes=MB, pids=5)
    with caplog.at_level(logging.WARNING):
        launch = bench.launch(limits=limits)
        bench.now_s += 3600
        bench.launch(limits=limits)
    assert launch.options.limits == {"pids": 5}
    note = "runs without its limit of cpu and memory, which this host lacks (no memory controller)"
    assert launch.notes == (note,)
    assert [record.getMessage() for record in caplog.records] == [f"shop/web {note}"]


def test_what_a_type_requires_it_has_or_does_not_start() -> None:
    assert Bench().launch(requires=tuple(Ability)).argv
    reason = refused(Bench(NONE), requires=(Ability.MEMORY, Ability.USER))
    assert reason == (
        "requires memory and user, which this host cannot enforce"
        " (cgroup v2 is not mounted; cannot switch users: not root)"
    )


def test_the_powers_of_a_host_are_what_works_and_why_the_rest_does_not() -> None:
    whole = Contained(path="/sys/fs/cgroup/x", controllers=("cpu", "memory", "pids"), problem="")
    assert powers_of(whole, is_root=True) == Powers(abilities=tuple(Ability))
    bare = Contained(path="/sys/fs/cgroup/x", controllers=(), problem="no controllers")
    assert powers_of(bare, is_root=False) == Powers(
        abilities=(Ability.CGROUP,), inability="no controllers; cannot switch users: not root"
    )
    nothing = Contained(path="", controllers=("cpu",), problem="no cgroup v2")
    assert powers_of(nothing, is_root=True).abilities == (Ability.USER,)


# -- ports -----------------------------------------------------------------------------------------


def test_a_fixed_port_is_that_one_or_none() -> None:
    bench = Bench()
    assert bench.launch(port=8080).port == 8080
    bench.taken.add(8080)
    assert refused(bench, port=8080) == "port 8080 is taken by another program"
    assert refused(bench, port=80) == "port 80 needs root or net.ipv4.ip_unprivileged_port_start"


def test_a_process_that_runs_is_described_again_without_taking_anything() -> None:
    bench = Bench()
    release = release_of(ProcessType(name="web", command="sleep 9", workdir="x"))
    bench.taken.add(20005)
    launch = bench.launcher.recall(stay(), release, 20005)
    assert launch is not None
    assert (launch.port, launch.env["PORT"], launch.cwd) == (20005, "20005", "/srv/shop/x")
    assert bench.launcher.recall(stay("other"), release, 1) is None
    assert bench.launcher.recall(stay(), None, 1) is None
    nobody = release_of(ProcessType(name="web", command="x", user="no-such-user"))
    assert bench.launcher.recall(stay(), nobody, 1) is None


# -- a burst of starts -----------------------------------------------------------------------------


def test_what_instances_of_a_type_share_is_found_out_once_for_a_burst(tmp_path: Path) -> None:
    program = tmp_path / "serve"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    spec = ProcessType(name="web", command="serve $PORT")
    release = replace(release_of(spec, workdir=str(tmp_path)), env={"PATH": str(tmp_path)})
    bench = Bench()
    one = bench.launcher.prepare(stay(ordinal=1), release)
    program.unlink()
    two = bench.launcher.prepare(stay(ordinal=2), release)
    assert (one.env["PS"], two.env["PS"]) == ("web.1", "web.2")
    assert one.env["FORMATION_INSTANCE"] != two.env["FORMATION_INSTANCE"]
    assert one.port != two.port
    bench.now_s += 10  # no longer the same burst
    with pytest.raises(LaunchError, match="command not found: serve"):
        bench.launcher.prepare(stay(ordinal=3), release)


# -- users -----------------------------------------------------------------------------------------

NOBODY = pwd.getpwnam("nobody")


def test_nobody_named_is_the_agent_itself() -> None:
    assert account("", "", our_uid=1000, our_gid=1000) == Account()


def test_root_becomes_the_user_with_its_groups_and_environment() -> None:
    found = account("nobody", "", our_uid=ROOT, our_gid=ROOT)
    groups = tuple(sorted(set(os.getgrouplist("nobody", NOBODY.pw_gid))))
    assert found.user == User(uid=NOBODY.pw_uid, gid=NOBODY.pw_gid, groups=groups, name="nobody")
    assert found.env == {
        "HOME": NOBODY.pw_dir,
        "USER": "nobody",
        "LOGNAME": "nobody",
        "SHELL": NOBODY.pw_shell,
    }
    assert account(str(NOBODY.pw_uid), "", our_uid=ROOT, our_gid=ROOT) == found


def test_a_group_can_be_another_than_the_user_s() -> None:
    group = grp.getgrnam("daemon")
    found = account("nobody", "daemon", our_uid=ROOT, our_gid=ROOT).user
    assert found is not None
    assert (found.uid, found.gid) == (NOBODY.pw_uid, group.gr_gid)
    assert group.gr_gid in found.groups
    own = account("", "daemon", our_uid=ROOT, our_gid=ROOT)
    assert own.user is not None
    assert (own.user.uid, own.user.gid, own.env) == (ROOT, group.gr_gid, {})


def test_who_is_that_user_already_need_not_switch() -> None:
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    found = account("nobody", "", our_uid=uid, our_gid=gid)
    assert (found.user, found.env["USER"]) == (None, "nobody")


ADVICE = "start it as root or as that user, or take it out of the type"


@pytest.mark.parametrize(
    ("user", "group", "our_uid", "reason"),
    [
        ("no-such", "", 0, "user no-such does not exist on this host: create it first"),
        ("4111222333", "", 0, "user 4111222333 does not exist on this host: create it first"),
        ("nobody", "no-such", 0, "group no-such does not exist on this host: create it first"),
        (
            "nobody",
            "daemon",
            1,
            "cannot run as user nobody and group daemon: the agent is not root; " + ADVICE,
        ),
    ],
)
def test_why_it_cannot_be_run_as_somebody_is_said_with_what_to_do(
    user: str, group: str, our_uid: int, reason: str
) -> None:
    with pytest.raises(NoAccount) as caught:
        account(user, group, our_uid=our_uid, our_gid=our_uid)
    assert str(caught.value) == reason


def test_a_type_of_an_unknown_user_does_not_start() -> None:
    assert refused(Bench(), user="no-such").startswith("user no-such does not exist")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_type_of_another_user_runs_with_its_home() -> None:
    launch = Bench().launch(user="nobody")
    assert launch.options.user is not None
    assert launch.options.user.uid == NOBODY.pw_uid
    assert launch.env["HOME"] == NOBODY.pw_dir


def test_the_agent_s_own_user_can_be_named() -> None:
    launch = Bench().launch(user=getpass.getuser())
    assert launch.options.user is None
    assert users.account(getpass.getuser(), "", our_uid=os.geteuid(), our_gid=os.getegid())


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != ROOT, reason="only root could run it as root")
def test_root_is_refused_unless_the_machines_owner_says_so() -> None:
    """Nomad CVE-2019-15928: what the agent's own settings forbid, no coordinator can ask for."""
    closed = Bench(rails=Guardrails())
    assert "would run as root: name a user in the type" in refused(closed)
    assert "would run as root" in refused(closed, user="root")
    assert "would run as root" in refused(closed, user="0")
    assert "would run as root" in refused(closed, group="nogroup")
    assert "root's group" in refused(closed, user="nobody", group="root")
    assert closed.launch(user="nobody").options.user is not None
    named = Bench(rails=Guardrails(users=("root",)))
    assert named.launch().options.user is None


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != ROOT, reason="only root may run it as somebody else")
def test_a_type_without_a_user_runs_as_the_machines_default() -> None:
    user = Bench(rails=Guardrails(default_user="nobody")).launch().options.user
    assert user is not None
    assert user.name == "nobody"


def test_where_it_may_run_reaches_the_keeper() -> None:
    bench = Bench(rails=Guardrails(users=("*",), directories=("/srv",)))
    assert bench.launch().options.within == ("/srv",)


# -- secrets ---------------------------------------------------------------------------------------


def secret_release(spec: ProcessType, **values: str) -> Release:
    found = {name: Secret(version=1, value=value) for name, value in values.items()}
    return replace(release_of(spec), env={"A": "project"}, config={"A": "config"}, secrets=found)


def test_secrets_are_variables_before_all_others_and_files_for_who_wants_them(
    tmp_path: Path,
) -> None:
    bench = Bench(files=SecretFiles(str(tmp_path / "secrets" / "a1")))
    spec = ProcessType(name="web", command="true", secret_files=("KEY",))
    launch = bench.launcher.prepare(stay(), secret_release(spec, A="s3cret", KEY="pem"))
    assert launch.env["A"] == "s3cret"
    assert "KEY" not in launch.env
    assert Path(launch.env["KEY_FILE"]).read_text() == "pem"
    assert "s3cret" not in repr(launch)
    again = bench.launcher.recall(stay(), secret_release(spec, A="s3cret", KEY="pem"), 20000)
    assert again is not None
    assert again.env["KEY_FILE"] == launch.env["KEY_FILE"]


@pytest.mark.parametrize(
    ("spec", "values", "said"),
    [
        (ProcessType(name="web", command="true", secrets=("B",)), {}, "secret B is not set"),
        (ProcessType(name="web", command="true"), {"B": ""}, "secret B came without its value"),
        (ProcessType(name="web", command="true", secret_files=("B",)), {"B": "x"}, "in memory"),
    ],
)
def test_a_type_does_not_start_without_a_secret_that_it_needs(
    spec: ProcessType, values: dict[str, str], said: str
) -> None:
    with pytest.raises(LaunchError, match=said):
        Bench().launcher.prepare(stay(), secret_release(spec, **values))


def test_a_type_that_does_not_need_a_secret_is_not_told_it() -> None:
    spec = ProcessType(name="web", command="true", secrets=())
    launch = Bench().launcher.prepare(stay(), secret_release(spec, B="s3cret"))
    assert "s3cret" not in launch.env.values()


@pytest.mark.parametrize(("of_type", "below"), [("", ""), ("api", "/api"), ("/opt", None)])
def test_deployed_code_runs_where_it_was_unpacked(
    of_type: str, below: str | None, tmp_path: Path
) -> None:
    """Also where the machine's owner allows nothing but his own directories."""
    digest = "ab" * 32
    (tmp_path / "shop" / digest / "api").mkdir(parents=True)
    spec = ProcessType(name="web", command="sleep 9", workdir=of_type)
    release = replace(release_of(spec, workdir=""), artifact=Artifact(digest=digest, size_bytes=1))
    bench = Bench(rails=replace(OPEN, directories=("/srv",)), code=CodeDirs(tmp_path))
    launch = bench.launch(release)
    assert launch.cwd == (of_type if below is None else f"{tmp_path}/shop/{digest}{below}")
    assert launch.options.within == ("/srv", f"{tmp_path}/shop/{digest}")


def test_deployed_code_that_is_gone_is_told(tmp_path: Path) -> None:
    release = replace(
        release_of(ProcessType(name="web", command="sleep 9")),
        artifact=Artifact(digest="ab" * 32, size_bytes=1),
    )
    with pytest.raises(LaunchError, match="gone from this host"):
        Bench(code=CodeDirs(tmp_path)).launch(release)


# -- builds ----------------------------------------------------------------------------------------


def built_release(**fields: Any) -> Release:
    spec = ProcessType(
        name="web",
        command="run",
        env={"OF_TYPE": "1"},
        limits=Limits(memory_bytes=64 * MB, rlimits={"nofile": 100}),
    )
    return replace(
        release_of(spec, workdir=""),
        artifact=Artifact(digest="ab" * 32, size_bytes=1),
        build=Build(command="make all", **fields),
        env={"OF_APP": "1"},
        config={"OF_OPERATOR": "1"},
        secrets={"API_KEY": Secret(version=1, value="open sesame")},
    )


def test_a_build_is_run_like_an_instance_without_secrets_a_port_or_a_types_own_variables(
    tmp_path: Path,
) -> None:
    bench, release = Bench(code=CodeDirs(tmp_path)), built_release()
    launch = bench.launcher.building(release, "u9", Slot("shop", "build", 1))
    assert (launch.argv, launch.cwd) == (
        ("make", "all"),
        str(tmp_path / "shop" / code_name(release)),
    )
    assert launch.options == SpawnOptions(
        umask=0o022, nice=10, limits={"memory_bytes": 64 * MB}, rlimits={"nofile": (100, 100)}
    )
    assert launch.env == {
        "PATH": "/usr/bin:/bin",
        "HOME": "/",
        "OF_APP": "1",
        "OF_OPERATOR": "1",
        "PS": "build.1",
        "FORMATION_APP": "shop",
        "FORMATION_TYPE": "build",
        "FORMATION_HOST": "b",
        "FORMATION_AGENT": "a1",
        "FORMATION_INSTANCE": "u9",
    }
    assert not bench.taken


def test_a_build_may_write_where_it_builds_and_nowhere_that_the_owner_does_not_allow(
    tmp_path: Path,
) -> None:
    sandbox = Sandbox(read_only=True, writable=("/data",))
    rails = replace(OPEN, directories=("/srv",))
    bench, release = Bench(rails=rails, code=CodeDirs(tmp_path), sandbox=sandbox), built_release()
    launch = bench.launcher.building(release, "u9", Slot("shop", "build", 1))
    assert launch.options.within == ("/srv", launch.cwd)
    assert launch.options.sandbox == replace(sandbox, writable=("/data", launch.cwd))
    # The instances that it is for may not.
    (tmp_path / "shop").mkdir()
    Path(launch.cwd).mkdir()
    (tmp_path / "shop" / f".{code_name(release)}.done").touch()
    assert bench.launch(release).options.sandbox == sandbox


def test_whom_a_build_may_not_run_as_is_told(tmp_path: Path) -> None:
    bench = Bench(rails=Guardrails(users=("shop",)), code=CodeDirs(tmp_path))
    with pytest.raises(LaunchError, match=r"(may not|would) run as "):
        bench.launcher.building(built_release(), "u9", Slot("shop", "build", 1))


def test_what_is_half_built_is_not_run(tmp_path: Path) -> None:
    release = built_release()
    (tmp_path / "shop" / code_name(release)).mkdir(parents=True)
    with pytest.raises(LaunchError, match="gone from this host"):
        Bench(code=CodeDirs(tmp_path)).launch(release)
