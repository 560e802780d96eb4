"""Descriptors in the queue of a socket: none is lost, none is left, and not too many are there."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest

from formation_agent.depot import PACK_FDS_MAX, Depot


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """As many as a keeper has, which asks for all that it may have."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(300)]
    yield made
    for _, writer in made:
        os.close(writer)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_was_put_in_comes_out_under_its_key_and_is_the_same_pipe(
    pipes: list[tuple[int, int]],
) -> None:
    depot, before = Depot(), open_files()
    for start in (0, 100, 200):
        pack = [(str(number), [pipes[number][0]]) for number in range(start, start + 100)]
        assert depot.put(pack)
    for reader, _ in pipes:
        os.close(reader)
    assert depot.held == 300
    assert open_files() == before - 300 + 2
    for number, (_, writer) in enumerate(pipes):
        os.write(writer, b"%d" % number)  # somebody still has the other end
    for key, (reader,) in depot.take_all():
        assert os.read(reader, 10) == key.encode()
        assert not os.get_inheritable(reader)
        os.close(reader)
    assert depot.held == 0
    assert open_files() == before - 300


def test_an_empty_one_has_nothing_and_can_be_used_again(pipes: list[tuple[int, int]]) -> None:
    depot = Depot()
    assert list(depot.take_all()) == []
    for _ in range(2):
        assert depot.put([("a", pipes[0]), ("b", pipes[1][:1])])
        taken = dict(depot.take_all())
        assert [len(fds) for fds in taken.values()] == [2, 1]
        for fd in (*taken["a"], *taken["b"]):
            os.close(fd)
    for reader, _ in pipes:
        os.close(reader)


def test_only_a_part_of_what_all_processes_of_a_user_may_have_is_used(
    pipes: list[tuple[int, int]],
) -> None:
    depot, (soft, hard) = Depot(), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        assert depot.put([(str(number), pipes[number][:1]) for number in range(64)])
        assert not depot.put([("one more", pipes[64][:1])])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for reader, _ in pipes:
        os.close(reader)
    taken = [fd for _, fds in depot.take_all() for fd in fds]
    assert len(taken) == 64
    for fd in taken:
        os.close(fd)


def test_more_than_one_message_takes_is_refused_whole(pipes: list[tuple[int, int]]) -> None:
    depot = Depot()
    assert not depot.put([("a", [reader for reader, _ in pipes[: PACK_FDS_MAX + 1]])])
    assert depot.held == 0
    for reader, _ in pipes:
        os.close(reader)
    assert list(depot.take_all()) == []
