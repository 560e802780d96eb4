"""Which port a slot gets."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable

import pytest

from formation.model import Slot
from formation_agent.ports import Port, PortError, Ports, is_free

WEB_1, WEB_2, WORKER_1 = Slot("shop", "web", 1), Slot("shop", "web", 2), Slot("shop", "worker", 1)


def all_free(_: int) -> bool:
    return True


def all_but(*taken: int) -> Callable[[int], bool]:
    return lambda number: number not in taken


def test_every_slot_gets_a_number_of_its_own() -> None:
    ports = Ports(range(20000, 20003), is_free=all_free)
    numbers = [ports.take(slot, 0, None).number for slot in (WEB_1, WEB_2, WORKER_1)]
    assert numbers == [20000, 20001, 20002]


def test_a_slot_keeps_its_port_over_restarts_and_releases() -> None:
    ports = Ports(range(20000, 20010), is_free=all_free)
    first = ports.take(WEB_1, 0, None)
    assert ports.take(WEB_1, 0, None) == first
    ports.release(WEB_1)
    assert ports.take(WEB_2, 0, None).number != first.number
    assert ports.take(WEB_1, 0, None) == first


def test_a_port_of_the_journal_comes_first() -> None:
    ports = Ports(range(20000, 20010), is_free=all_free)
    ports.remember(WEB_1, 20007)
    assert ports.take(WEB_2, 0, None).number == 20000
    assert ports.take(WEB_1, 0, None) == Port(number=20007)


def test_a_port_that_is_not_free_is_moved_and_says_from_where() -> None:
    ports = Ports(range(20000, 20010), is_free=all_but(20000, 20005))
    assert ports.take(WEB_1, 0, 20005) == Port(number=20001, moved_from=20005)
    assert ports.take(WEB_2, 0, None) == Port(number=20002)


def test_the_port_of_a_running_process_is_held_although_it_is_bound() -> None:
    ports = Ports(range(20000, 20002), is_free=all_but(20000))
    ports.hold(WEB_1, 20000)
    assert ports.take(WEB_2, 0, 20000) == Port(number=20001, moved_from=20000)


def test_foreman_numbers_are_5000_and_100_for_each_type() -> None:
    ports = Ports(range(20000, 20010), foreman_base=5000, is_free=all_free)
    assert ports.take(WEB_1, 0, None).number == 5000
    assert ports.take(WEB_2, 0, None).number == 5001
    assert ports.take(WORKER_1, 1, None).number == 5100
    assert ports.take(Slot("shop", "web", 100), 0, None).number == 5099


def test_instance_101_does_not_take_the_next_types_first_number() -> None:
    ports = Ports(range(20000, 20010), foreman_base=5000, is_free=all_free)
    assert ports.take(Slot("shop", "web", 101), 0, None).number == 20000


def test_a_taken_foreman_number_is_moved_into_the_range_and_comes_back() -> None:
    busy = {5000}
    ports = Ports(range(20000, 20010), foreman_base=5000, is_free=lambda n: n not in busy)
    assert ports.take(WEB_1, 0, None) == Port(number=20000, moved_from=5000)
    assert ports.take(WEB_1, 0, None) == Port(number=20000, moved_from=5000)
    busy.clear()
    assert ports.take(WEB_1, 0, None) == Port(number=5000)


def test_an_exhausted_range_says_how_many_there_are() -> None:
    ports = Ports(range(20000, 20003), is_free=all_but(20001))
    ports.take(WEB_1, 0, None)
    ports.take(WEB_2, 0, None)
    with pytest.raises(PortError, match=r"20000-20002: 2 given .* here, 1 in use by others"):
        ports.take(WORKER_1, 1, None)
    ports.release(WEB_1)
    assert ports.take(WORKER_1, 1, None).number == 20000


def refusing(number: int) -> bool:
    raise PermissionError(errno.EACCES, "not for you")


def test_numbers_that_are_no_ports_are_passed_over() -> None:
    ports = Ports(range(20000, 20010), foreman_base=65500, is_free=all_free)
    assert ports.take(Slot("shop", "web", 36), 0, None).number == 65535
    assert ports.take(Slot("shop", "web", 37), 0, None).number == 20000
    assert ports.take(WEB_1, 1, 70000).number == 20001


def test_ports_that_are_not_for_us_are_called_so() -> None:
    ports = Ports(range(80, 83), is_free=refusing)
    with pytest.raises(PortError, match=r"80-82: 0 given .*, 3 only for root .*, 0 in use"):
        ports.take(WEB_1, 0, None)


def test_without_a_free_descriptor_no_port_is_looked_for() -> None:
    looked: list[int] = []

    def cannot_look(number: int) -> bool:
        looked.append(number)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    ports = Ports(range(20000, 20010), is_free=cannot_look)
    with pytest.raises(PortError, match="the agent has too many open files"):
        ports.take(WEB_1, 0, None)
    assert looked == [20000]


def test_a_process_without_a_free_descriptor_does_not_call_a_port_taken() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            is_free(20000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
@pytest.mark.parametrize("reuse", [0, 1])
def test_a_port_with_a_listener_on_any_address_is_not_free(address: str, reuse: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listener:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        try:
            listener.bind((address, 0))
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error.strerror}")
        listener.listen()
        number = listener.getsockname()[1]
        assert not is_free(number)
    assert is_free(number)


def test_connections_that_wait_out_their_end_do_not_make_a_port_taken() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        number = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", number)):
            accepted, _ = listener.accept()
            accepted.close()  # closes first, so that this side waits
    assert is_free(number)


# -- fixed ports -----------------------------------------------------------------------------------


def test_a_fixed_port_is_given_to_one_slot_and_again_when_that_has_let_go() -> None:
    ports = Ports(range(20000, 20010), is_free=all_free)
    assert ports.take_fixed(WEB_1, 8080) == Port(number=8080)
    assert ports.take_fixed(WEB_1, 8080) == Port(number=8080)  # its next process
    with pytest.raises(PortError, match=r"^port 8080 is given to shop/web\.1 on this host$"):
        ports.take_fixed(WEB_2, 8080)
    ports.release(WEB_1)
    assert ports.take_fixed(WEB_2, 8080) == Port(number=8080)


def test_a_fixed_port_of_the_range_may_be_somebody_else_s_and_the_reason_says_what_to_do() -> None:
    ports = Ports(range(20000, 20010), is_free=all_free)
    ports.take(WORKER_1, 0, None)
    with pytest.raises(PortError) as caught:
        ports.take_fixed(WEB_1, 20000)
    assert str(caught.value) == (
        "port 20000 is given to shop/worker.1 on this host; choose one outside of --port-range"
    )
    assert ports.take_fixed(WEB_1, 20001).number == 20001
    assert ports.take(WEB_2, 0, None).number == 20002


def test_a_fixed_port_that_somebody_else_has_is_not_moved() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        number = listener.getsockname()[1]
        with pytest.raises(PortError, match=f"^port {number} is taken by another program$"):
            Ports(range(20000, 20010)).take_fixed(WEB_1, number)


def test_a_privileged_port_says_what_it_needs() -> None:
    def denied(_: int) -> bool:
        raise PermissionError

    with pytest.raises(PortError) as caught:
        Ports(range(20000, 20010), is_free=denied).take_fixed(WEB_1, 80)
    assert str(caught.value) == "port 80 needs root or net.ipv4.ip_unprivileged_port_start"
