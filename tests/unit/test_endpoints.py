"""Endpoints in everybody's words; HAProxy and nginx read theirs themselves."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from formation.model import InstanceState, InstanceStatus, Slot
from formctl import endpoints as forms
from formctl.endpoints import FORMS, Endpoint, by_type, doubt, endpoints
from formctl.views import Instance

ADDRESSES = {"a": "10.0.0.1", "b": "2001:db8::2", "c": ""}
# An agent says where it is, and this ends up in the configuration of a load balancer.
HOSTILE = ("1.2.3.4:80\n    option x", "1.2.3.4;", "a b", "{{x}}", "-x", "$(id)", "x" * 300)
WANTED = [("shop", "web"), ("shop", "admin")]


def instance(slot: str = "web.1", host: str = "a", port: int = 20001) -> Instance:
    kind, ordinal = slot.split(".")
    status = InstanceStatus(
        uid=f"{slot}-x", slot=Slot("shop", kind, int(ordinal)), release=1,
        state=InstanceState.HEALTHY, port=port,
    )  # fmt: skip
    return Instance(status=status, host=host)


def in_state(state: InstanceState) -> Instance:
    item = instance()
    return replace(item, status=structs.replace(item.status, state=state))


def rendered(form: str, found: list[Endpoint], wanted: list[tuple[str, str]]) -> str:
    return forms.rendered(form, by_type(found, wanted))


FOUND = endpoints(
    [instance("web.2", "b", 20002), instance(), instance("worker.1")], ADDRESSES, ("web",)
)


def test_healthy_ones_of_the_types_in_order() -> None:
    assert [(e.name, e.target) for e in FOUND] == [
        ("web.1", "10.0.0.1:20001"),
        ("web.2", "[2001:db8::2]:20002"),
    ]
    everything = endpoints([instance(), instance("worker.1")], ADDRESSES, ())
    assert [e.name for e in everything] == ["web.1", "worker.1"]


@pytest.mark.parametrize(
    ("item", "there"),
    [
        (instance(), True),
        # Its coordinator may just have started; whether it answers is seen by who asks it.
        (replace(instance(), host_silent=True), True),
        (replace(instance(), surplus=True), False),
        (replace(instance(), run="r1"), False),
        (replace(instance(host="unheard"), address="10.0.0.9"), True),
        *((replace(instance(), address=bad), False) for bad in HOSTILE),
        (instance(port=0), False),
        (instance(host="c"), False),
        (instance(host="unheard"), False),
        *((in_state(state), state is InstanceState.HEALTHY) for state in InstanceState),
    ],
)
def test_who_gets_requests(item: Instance, *, there: bool) -> None:
    assert bool(endpoints([item], ADDRESSES, ())) == there


def test_nobody_is_said_to_be_gone_who_may_just_not_be_heard_of() -> None:
    def asked(*items: Instance) -> str:
        return doubt(items, ADDRESSES, endpoints(items, ADDRESSES, ()))

    unheard = replace(in_state(InstanceState.WAITING), host_silent=True)
    assert asked(unheard) == "web.1 is on a, which is silent, and may be healthy"
    assert asked(instance(host="c")) == "web.1 is healthy on c, whose address is not known"
    # Those that are known are told; and what is known not to serve is no doubt.
    assert not asked(unheard, instance("web.2"))
    assert not asked(replace(unheard, surplus=True))
    assert not asked(in_state(InstanceState.STARTING), in_state(InstanceState.BACKOFF))
    assert not asked()


def test_json_env_and_prometheus() -> None:
    assert json.loads(rendered("json", FOUND, WANTED))[0] == {
        "app": "shop", "type": "web", "instance": "web.1", "host": "a", "address": "10.0.0.1",
        "port": 20001, "release": 1,
    }  # fmt: skip
    assert rendered("env", FOUND, WANTED) == (
        "SHOP_ADMIN_ENDPOINTS=\nSHOP_WEB_ENDPOINTS=10.0.0.1:20001,[2001:db8::2]:20002\n"
    )
    found = json.loads(rendered("prometheus", FOUND, WANTED))
    assert found[1]["targets"] == ["[2001:db8::2]:20002"]
    assert found[1]["labels"]["formation_instance"] == "web.2"
    assert "(shop_web) {\n\tto 10.0.0.1:20001 [2001:db8::2]:20002\n}" in rendered(
        "caddy", FOUND, WANTED
    )


@pytest.mark.parametrize("form", FORMS)
def test_nothing_healthy_is_said_in_every_form(form: str) -> None:
    assert rendered(form, [], WANTED).endswith("\n")
    assert rendered(form, [], [])


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        pytest.skip(f"no {name}: apt install {name}")
    return found


@pytest.mark.parametrize("found", [FOUND, []], ids=["some", "none"])
def test_haproxy_and_nginx_take_them(tmp_path: Path, found: list[Endpoint]) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "defaults\n    mode http\n    timeout connect 1s\n    timeout client 1s\n"
        "    timeout server 1s\n\nfrontend all\n    bind 127.0.0.1:1\n"
        "    default_backend shop_web\n\n" + rendered("haproxy", found, WANTED)
    )
    done = subprocess.run(
        [program("haproxy"), "-c", "-f", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    site = tmp_path / "nginx.conf"
    site.write_text(
        f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n"
        f"{rendered('nginx', found, WANTED)}}}\n"
    )
    done = subprocess.run(
        [program("nginx"), "-t", "-e", "stderr", "-c", str(site), "-p", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
