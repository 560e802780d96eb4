"""`formctl init` of others' files: what they say is taken, what it cannot mean is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation import manifest
from formation.model import Limits, ProcessType, RestartPolicy, StopTo
from formctl import importing, starter
from formctl.__main__ import run
from formctl.importing import ForeignError, Found

COMPOSE = """
services:
  web:
    build: .
    command: gunicorn shop.wsgi --bind 0.0.0.0:$$PORT
    ports: ["8000:8000"]
    environment:
      DEBUG: false
      SECRET:
    stop_signal: SIGINT
    stop_grace_period: 1m30s
    restart: unless-stopped
    deploy:
      replicas: 3
      resources: {limits: {memory: 512M, cpus: "1.5"}}
  mail.worker:
    entrypoint: ["python", "-m"]
    command: ["mail", "--name", "a b"]
    environment: [A=1, B]
    restart: on-failure:5
  db:
    image: postgres:16
"""
SUPERVISORD = """
[supervisord]
nodaemon=true
[program:web]
command=gunicorn shop.wsgi --bind 0.0.0.0:%(ENV_PORT)s ; a comment
directory=/srv/shop
environment=A="1",B='two, three',C="100%%"
numprocs=2
process_name=%(program_name)s_%(process_num)02d
autorestart=true
stopsignal=INT
stopwaitsecs=20
stopasgroup=true
user=shop
umask=027
priority=10
[program:once]
command=./once %(process_num)d
[eventlistener:x]
command=./listen
"""
APP_JSON = """{
 "name": "Shop",
 "formation": {"web": {"quantity": 2, "size": "standard-1x"}, "worker": {"quantity": 0}},
 "env": {"LOG_LEVEL": "info", "KEY": {"generator": "secret"}, "DB": {"description": "where"},
         "OPTIONAL": {"required": false}, "N": {"value": 3}},
 "addons": ["heroku-postgresql"]
}"""


def read(name: str, text: str) -> Found:
    reader = importing.reader_of(name)
    assert reader is not None
    return reader(text, name)


def types_of(found: Found) -> dict[str, ProcessType]:
    """As they come back from the file that is written."""
    written = manifest.parse(starter.manifest("shop", found.types, found.env))
    assert written.types == found.types
    assert written.env == found.env
    return {spec.name: spec for spec in written.types}


def test_of_a_compose_file_commands_are_taken_over() -> None:
    found = read("docker-compose.yml", COMPOSE)
    types = types_of(found)
    web, mail = types["web"], types["mail-worker"]
    assert web.command == "gunicorn shop.wsgi --bind 0.0.0.0:$PORT"
    assert (web.initial_quantity, web.stop_signal, web.stop_grace_s) == (3, "INT", 90.0)
    assert (web.limits.memory_bytes, web.limits.cpus) == (512 << 20, 1.5)
    assert web.env == {"DEBUG": "false"}
    assert web.restart is RestartPolicy.ALWAYS
    assert mail.command == "python -m mail --name 'a b'"
    assert (mail.env, mail.restart) == ({"A": "1"}, RestartPolicy.ON_FAILURE)
    assert set(types) == {"web", "mail-worker"}
    web_is, mail_is = "docker-compose.yml:3: services.web", "docker-compose.yml:16: services.mail"
    assert found.notes == (
        f"{web_is}: SECRET has no value: formctl config set SECRET=…",
        f"{web_is}: publishes ports; here it listens on $PORT, formctl endpoints tells",
        f"{web_is}: build is not taken over",
        f"{mail_is}.worker: B has no value: formctl config set B=…",
        "docker-compose.yml:21: services.db: runs what image postgres:16 says; left out",
    )


def test_of_a_supervisord_conf_programs_are_taken_over() -> None:
    found = read("supervisord.conf", SUPERVISORD)
    types = types_of(found)
    web, once = types["web"], types["once"]
    assert web.command == "gunicorn shop.wsgi --bind 0.0.0.0:$PORT"
    assert (web.initial_quantity, web.user, web.umask) == (2, "shop", 0o027)
    assert (web.stop_signal, web.stop_grace_s, web.stop_to) == ("INT", 20.0, StopTo.GROUP)
    assert web.env == {"A": "1", "B": "two, three", "C": "100%"}
    assert web.workdir == "/srv/shop"
    assert (once.restart, once.stop_to) == (RestartPolicy.ON_FAILURE, StopTo.MAIN)
    meant = "supervisord.conf:17: [program:once]: what is meant"
    assert found.notes == (
        "supervisord.conf:4: [program:web]: priority is not taken over",
        f"{meant} by %(process_num)d? PS and PORT tell instances apart here",
        "supervisord.conf:19: [eventlistener:x] is not taken over",
    )


@pytest.mark.parametrize(
    ("said", "key", "value", "note"),
    [
        ("scale: 4", "initial_quantity", 4, ""),
        ("deploy: {replicas: 0}", "initial_quantity", 0, ""),
        ("scale: many", "initial_quantity", 1, "so many replicas is no number: many; 1 here"),
        ("restart: 'no'", "restart", RestartPolicy.NEVER, ""),
        ("restart: always", "restart", RestartPolicy.ALWAYS, ""),
        ("stdin_open: true", "restart", RestartPolicy.ALWAYS, ""),
        ("deploy: {restart_policy: {condition: none}}", "restart", RestartPolicy.NEVER, ""),
        (
            "deploy: {restart_policy: {condition: on-failure}}",
            "restart",
            RestartPolicy.ON_FAILURE,
            "",
        ),
        ("deploy: {restart_policy: {}}", "restart", RestartPolicy.ALWAYS, ""),
        ("stop_signal: QUIT", "stop_signal", "QUIT", ""),
        ("stop_signal: SIGPWR", "stop_signal", "TERM", "stop_signal SIGPWR is not known here"),
        ("stop_grace_period: 1h30m", "stop_grace_s", 5400.0, ""),
        ("stop_grace_period: soon", "stop_grace_s", 30.0, "stop_grace_period soon is no time"),
        ("environment: {A: 1.5, B: true}", "env", {"A": "1.5", "B": "true"}, ""),
        ("environment: ['A=x=y']", "env", {"A": "x=y"}, ""),
        ("environment: {A: 'p$$q'}", "env", {"A": "p$q"}, ""),
        ("environment: {A: '${B:-c}/d'}", "env", {"A": "c/d"}, ""),
        ("environment: {A: '${B}/d'}", "env", {}, "A has no value: formctl config set A=…"),
        ("environment: {A: $B}", "env", {}, "A has no value: formctl config set A=…"),
        ("environment: {A: '${B:?must}'}", "env", {}, "A has no value: formctl config set A=…"),
        ("working_dir: /app", "workdir", "", "working_dir is not taken over"),
        ("user: '1000'", "user", "", "user is not taken over"),
        ("mem_limit: 64m", "limits", Limits(memory_bytes=64 << 20), ""),
        ("cpus: 0.5", "limits", Limits(cpus=0.5), ""),
        ("mem_limit: lots", "limits", Limits(), ""),
    ],
)
def test_each_key_of_a_service_becomes_one_of_ours_or_a_note(
    said: str, key: str, value: object, note: str
) -> None:
    found = read("c.yml", f"services:\n  web:\n    command: ./web\n    {said}\n")
    assert getattr(types_of(found)["web"], key) == value
    assert note in "".join(found.notes)
    assert bool(note) == bool(found.notes)
    assert all(line.startswith("c.yml:2: services.web: ") for line in found.notes)


@pytest.mark.parametrize(
    ("said", "key", "value", "note"),
    [
        ("numprocs=3", "initial_quantity", 3, ""),
        ("numprocs=%(ENV_N)s", "initial_quantity", 1, "numprocs %(ENV_N)s is no number; 1 here"),
        ("autostart=false", "initial_quantity", 0, "autostart is off: quantity 0"),
        ("directory=/srv/shop", "workdir", "/srv/shop", ""),
        ("directory=app", "workdir", "", "directory app is below supervisord's own; left out"),
        ("directory=/srv/%(ENV_X)s", "workdir", "", "directory /srv/%(ENV_X)s is below"),
        ("stopsignal=QUIT", "stop_signal", "QUIT", ""),
        ("stopsignal=SIGUSR2", "stop_signal", "USR2", ""),
        ("stopsignal=PWR", "stop_signal", "TERM", "stopsignal PWR: TERM here"),
        ("stopsignal=INT,KILL", "stop_signal", "INT", "stopsignal INT,KILL: INT here"),
        ("stopwaitsecs=3600", "stop_grace_s", 3600.0, ""),
        ("stopwaitsecs=x", "stop_grace_s", 10.0, "stopwaitsecs x is no number; 10 here"),
        ("startsecs=5", "ready_after_s", 5.0, ""),
        ("user=shop", "user", "shop", ""),
        ("autorestart=true", "restart", RestartPolicy.ALWAYS, ""),
        ("autorestart=unexpected", "restart", RestartPolicy.ON_FAILURE, ""),
        ("autorestart=no", "restart", RestartPolicy.NEVER, ""),
        ("autorestart=x", "restart", RestartPolicy.ALWAYS, "autorestart x is not known"),
        ("stopasgroup=true", "stop_to", StopTo.GROUP, ""),
        ("startretries=9", "restart", RestartPolicy.ON_FAILURE, "startretries is not taken over"),
        ("environment=A='b c',D=\"e\"", "env", {"A": "b c", "D": "e"}, ""),
        ("environment=A=%(ENV_HOME)s/x", "env", {}, "A is made of others' values"),
        ("environment=A", "env", {}, "environment cannot be read from A on"),
        ('environment=A="', "env", {}, "environment cannot be read; left out"),
        ("stdout_logfile=/var/log/x", "stop_grace_s", 10.0, ""),
    ],
)
def test_each_key_of_a_program_becomes_one_of_ours_or_a_note(
    said: str, key: str, value: object, note: str
) -> None:
    found = read("s.conf", f"; ours\n[program:web]\ncommand=./web\n{said}\n")
    assert getattr(types_of(found)["web"], key) == value
    assert note in "".join(found.notes)
    assert bool(note) == bool(found.notes)
    assert all(line.startswith("s.conf:2: [program:web]: ") for line in found.notes)


def test_variables_of_supervisord_are_those_of_all_programs() -> None:
    found = read("s.conf", "[supervisord]\nenvironment=A=1\n[program:web]\ncommand=./web\n")
    assert (found.env, types_of(found)["web"].env) == ({"A": "1"}, {})


def test_what_cannot_be_taken_over_is_said_in_the_file_too(tmp_path: Path) -> None:
    (tmp_path / "compose.yml").write_text(COMPOSE)
    assert run(["init", str(tmp_path), "--from", str(tmp_path / "compose.yml")]) == 0
    written = (tmp_path / "formation.toml").read_text()
    place = f"{tmp_path / 'compose.yml'}:21"
    assert f"# * {place}: services.db: runs what image postgres:16 says; left out\n" in written


def test_of_an_app_json_quantities_and_variables_are_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Procfile").write_text("web: ./web\nworker: ./work\nclock: ./tick\n")
    (tmp_path / "app.json").write_text(APP_JSON)
    assert run(["init", str(tmp_path), "--app", "shop"]) == 0
    out, err = capsys.readouterr()
    assert "not in the file: formctl secret set KEY" in out
    assert "env.DB has no value: formctl config set DB=…" in err
    assert "addons is not taken over" in err
    assert "OPTIONAL" not in err
    found = manifest.parse((tmp_path / "formation.toml").read_text())
    assert {spec.name: spec.initial_quantity for spec in found.types} == {
        "web": 2,
        "worker": 0,
        "clock": 0,
    }
    assert found.env == {"LOG_LEVEL": "info", "N": "3"}


def test_from_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = tmp_path / "docker-compose.yaml"
    foreign.write_text(COMPOSE)
    assert run(["init", str(tmp_path), "--from", str(foreign)]) == 0
    assert "web mail-worker, as in" in capsys.readouterr().out
    assert run(["check", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.yml", "a: b\nc: [", "x.yml:2: while parsing a flow node, expected"),
        ("x.yml", "a: \0", "x.yml: unacceptable character"),
        ("x.yml", "services: {a.b: {command: x}, a-b: {command: x}}", "several would be called a-"),
        ("x.yml", "services: {}", "there are no services in it"),
        ("x.yml", "- a", "there are no services in it"),
        ("x.yml", "services: {db: {image: x}}", "no service has a command"),
        ("x.conf", "no section", "x.conf:1: stands before any [section]"),
        ("x.conf", "[program:a]\ncommand=x\nwhat\n", "x.conf:3: is not of the form key ="),
        ("x.conf", "[program:a.b]\ncommand=x\n[program:a-b]\ncommand=x", "several would be"),
        ("x.conf", "[program:a]\ndirectory=/", "there is no [program:…] with a command"),
        ("app.json", "{\n", "app.json:2: Expecting property name"),
        ("app.json", "[]", "app.json: must be an object"),
        ("app.json", '{"formation": {"web": {"quantity": -1}}}', "formation.web.quantity: must be"),
        ("app.json", '{"env": []}', "app.json: env: must be an object"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(name: str, text: str, said: str) -> None:
    with pytest.raises(ForeignError) as caught:
        read(name, text)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["services: [", "services: {web: {image: x}}", ""])
def test_what_cannot_be_read_is_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "x.yml").write_text(text)
    assert run(["init", str(tmp_path), "--from", str(tmp_path / "x.yml")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    first, *rest = said.err.splitlines()
    assert first.startswith(f"formctl: {tmp_path}/x.yml:")
    assert all(line.startswith(f"{tmp_path}/x.yml: ") for line in rest)
    assert not (tmp_path / "formation.toml").exists()


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", str(tmp_path), "--from", "Dockerfile"]) == 2
    assert "is neither docker-compose.yml, supervisord.conf nor app.json" in capsys.readouterr().err
    assert run(["init", str(tmp_path), "--from", str(tmp_path / "x.yml")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "formation.toml").exists()


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["services", "a", "command", "env", "formation", "deploy", "quantity"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def problems(name: str, text: str) -> tuple[str, ...]:
    try:
        read(name, text)
    except ForeignError as error:
        return error.problems
    return ()


@given(st.sampled_from(["x.yml", "x.conf", "app.json"]), st.text(max_size=80))
def test_rubbish_is_refused_or_read(name: str, text: str) -> None:
    assert all("\n" not in problem for problem in problems(name, text))


@given(st.sampled_from(["x.yml", "app.json"]), JSONISH)
def test_what_has_another_shape_is_refused_or_read(name: str, data: object) -> None:
    assert all(problem.startswith(name) for problem in problems(name, json.dumps(data)))
