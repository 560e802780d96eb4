"""HTTP load on the web type, as a balancer would spread it; counts what was answered."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import grpc

from formation.v1 import control_pb2 as pb
from formation.v1 import control_pb2_grpc, types_pb2

_LOOK_S = 0.5


class Traffic(threading.Thread):
    """`answers`: good ones, and each kind of failure. `dial`: the way to a coordinator."""

    def __init__(
        self,
        addresses: list[str],
        hosts: dict[str, str],
        app: str,
        dial: Callable[[str], grpc.Channel],
    ) -> None:
        super().__init__(daemon=True)
        self.answers: Counter[str] = Counter()
        self._addresses, self._hosts, self._app = addresses, hosts, app
        self._dial = dial
        self._targets: list[tuple[str, int]] = []
        self._over = threading.Event()

    def run(self) -> None:
        looking = threading.Thread(target=self._look, daemon=True)
        looking.start()
        while not self._over.wait(0.02):
            targets = self._targets
            if targets:
                self.answers[self._ask(*random.choice(targets))] += 1
        looking.join(timeout=10.0)

    def finish(self) -> Counter[str]:
        self._over.set()
        self.join(timeout=20.0)
        return self.answers

    def _ask(self, host: str, port: int) -> str:
        connection = http.client.HTTPConnection(host, port, timeout=2.0)
        try:
            connection.request("GET", "/")
            return "ok" if connection.getresponse().status == http.HTTPStatus.OK else "bad"
        except OSError as error:
            return type(error).__name__
        except http.client.HTTPException:
            return "broken off"
        finally:
            connection.close()

    def _look(self) -> None:
        turn = 0
        while not self._over.wait(_LOOK_S):
            address = self._addresses[turn % len(self._addresses)]
            with self._dial(address) as channel:
                request = pb.WatchInstancesRequest(app=self._app, once=True)
                try:
                    (update,) = control_pb2_grpc.ControlStub(channel).WatchInstances(
                        request, timeout=2.0
                    )
                except (grpc.RpcError, ValueError):
                    turn += 1
                    time.sleep(_LOOK_S)
                    continue
            self._targets = [
                (self._hosts[view.host], view.status.port)
                for view in update.changed
                if view.status.type == "web"
                and view.status.state == types_pb2.INSTANCE_STATE_HEALTHY
                and not view.host_silent
                and not view.surplus
            ]
