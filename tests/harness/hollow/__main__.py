"""Thousands of hollow hosts in one process.

    python -m hollow --hosts 1000 --first 0 --coordinators 127.0.0.1:7100 [--authority DIR]

Says `ready` when it could begin, begins with a line on standard input, and answers each further
line with one of JSON: how many are connected, and what was said. `drop 3` is such a line too: three
hosts fall silent for good, as if their power was cut. Ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import resource
import sys
import time
from dataclasses import fields
from typing import Any

from formation import credentials, pki
from formation.credentials import Credential
from formation.identity import Identity, Role
from formation.names import PING_EVERY_S
from formation_agent import session
from formation_coordinator import keyring
from hollow.host import HollowHost, Traffic
from hollow.rooms import Behaviour

GC_AFTER, GC_OLDER_AFTER = 50_000, 50


class Issuer:
    """`directory`: a coordinator's --identity-dir, whose authority signs; "": no certificates."""

    def __init__(self, directory: str) -> None:
        self._ring = keyring.load(directory) if directory else None
        self._cluster = credentials.load(directory).seen.identity.cluster if directory else ""

    def credential(self, host: str) -> Credential | None:
        if self._ring is None:
            return None
        signer = self._ring.authorities[0]
        now_ms = time.time_ns() // 1_000_000
        key = pki.new_key()
        who = Identity(cluster=self._cluster, role=Role.AGENT, name=host)
        signed = pki.issue(signer, who, key.public_key(), now_ms)
        return Credential(
            directory="",
            seen=pki.look_at(signed.certificate, (signer.certificate,)),
            key_pem=pki.key_pem(key),
            certificate_pem=pki.certificate_pem(signed.certificate),
            authorities=(signer.certificate,),
        )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hollow", description="hosts without processes")
    parser.add_argument("--hosts", type=int, required=True)
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--coordinators", required=True)
    parser.add_argument("--authority", default="", metavar="DIR")
    parser.add_argument("--start-s", type=float, default=0.0)
    parser.add_argument("--failing", type=float, default=0.0)
    parser.add_argument("--spread-s", type=float, default=0.0, help="within so long all dial")
    parser.add_argument("--ping-every", type=float, default=PING_EVERY_S, metavar="SECONDS")
    return parser.parse_args()


def made(options: argparse.Namespace) -> list[HollowHost]:
    issuer = Issuer(options.authority)
    behaviour = Behaviour(start_s=options.start_s, failing=options.failing)
    addresses = tuple(options.coordinators.split(","))
    hosts = []
    for number in range(options.first, options.first + options.hosts):
        name = f"h{number:05d}"
        credential = issuer.credential(name)
        ping_s = options.ping_every
        hosts.append(HollowHost(name, addresses, credential, behaviour, ping_every_s=ping_s))
    return hosts


def told(hosts: list[HollowHost]) -> dict[str, Any]:
    names = [field.name for field in fields(Traffic)]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "connected": sum(host.is_connected for host in hosts),
        "with_a_choice": sum(len(host.session.coordinators) > 1 for host in hosts),
        "spawned": sum(host.keeper.spawned for host in hosts),
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "memory_bytes": usage.ru_maxrss * 1024,
        **{name: sum(getattr(host.traffic, name) for host in hosts) for name in names},
    }


async def run(options: argparse.Namespace) -> None:
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    hosts = made(options)
    print("ready", flush=True)
    await lines.readline()
    running = [asyncio.create_task(host.begin(options.spread_s)) for host in hosts]
    while line := await lines.readline():
        word, _, count = line.decode().strip().partition(" ")
        if word == "drop":
            for _ in range(int(count)):
                running.pop().cancel()
                hosts.pop()
        print(json.dumps(told(hosts)), flush=True)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def main() -> None:
    # It looks at every socket of its process: a few in an agent, thousands here, for each host.
    vars(session)["notice_cuts"] = lambda: None
    logging.basicConfig(level=logging.ERROR)
    options = parsed()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard) if soft < hard else (soft, hard))
    # A collection looks at one host's objects in an agent, at those of thousands here.
    gc.set_threshold(GC_AFTER, GC_OLDER_AFTER, GC_OLDER_AFTER)
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
