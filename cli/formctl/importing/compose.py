"""Commands of a docker-compose.yml, to begin with. https://github.com/compose-spec/compose-spec

What only a container has (its image, its networks, its volumes) is told, not guessed at.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from formation.model import Limits, ProcessType, RestartPolicy
from formctl.importing.found import ForeignError, Found, seconds, signal_name, twins, type_name

if TYPE_CHECKING:
    import yaml

_RESTART = {
    "no": RestartPolicy.NEVER,
    "false": RestartPolicy.NEVER,
    "on-failure": RestartPolicy.ON_FAILURE,
    "always": RestartPolicy.ALWAYS,
    "unless-stopped": RestartPolicy.ALWAYS,
}
_LEFT = (
    "build", "volumes", "networks", "env_file", "secrets", "configs", "healthcheck", "depends_on",
    "user", "working_dir", "cap_add", "privileged", "profiles", "extends",
)  # fmt: skip
_UNITS = {"b": 1, "k": 1 << 10, "kb": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "g": 1 << 30,
          "gb": 1 << 30}  # fmt: skip
# `$$` is compose's way to write `$`; the others it fills in itself, from its own environment.
_FILLED = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<bare>\w+)|\{(?P<name>\w+)(?::?-(?P<default>[^}]*)|:?[?+][^}]*)?\})"
)


def read(text: str, source: str) -> Found:
    """Raises `ForeignError`."""
    data, lines = _parsed(text, source)
    services = data.get("services") if isinstance(data, dict) else None
    if not isinstance(services, dict) or not services:
        raise ForeignError([f"{source}: there are no services in it"])
    types: list[ProcessType] = []
    notes: list[str] = []
    for given, service in services.items():
        place = f"{source}:{lines.get(str(given), 1)}: services.{given}"
        name = type_name(str(given))
        why = "no name that a type could have" if not name else _without_command(service)
        if why:
            notes.append(f"{place}: {why}; left out")
        else:
            types.append(_type(name, service, place, notes))
    if not types:
        raise ForeignError([*notes, f"{source}: no service has a command"])
    if problems := twins(types, source):
        raise ForeignError(problems)
    return Found(types=tuple(types), notes=tuple(notes))


def _parsed(text: str, source: str) -> tuple[Any, Mapping[str, int]]:
    """The data, and on which line each service begins."""
    import yaml

    try:
        return yaml.safe_load(text), _lines(yaml.compose(text, yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        said = ", ".join(filter(None, (error.context, error.problem)))
        raise ForeignError([f"{source}:{line}: {' '.join(said.split())}"]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ForeignError([f"{source}: {' '.join(str(error).split())}"]) from None


def _lines(root: yaml.Node | None) -> dict[str, int]:
    for key, value in _pairs(root):
        if key.value == "services":
            return {str(name.value): name.start_mark.line + 1 for name, _ in _pairs(value)}
    return {}


def _pairs(node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    import yaml

    return node.value if isinstance(node, yaml.MappingNode) else []


def _without_command(service: object) -> str:
    """Why it cannot be a type; "" when it can."""
    if not isinstance(service, dict):
        return "is no mapping"
    if _command(service):
        return ""
    image = service.get("image")
    return f"runs what image {image} says" if image else "has no command"


def _command(service: dict[str, Any]) -> str:
    """Of the entry point and the command, as a shell reads them: it fills in variables, too."""
    words = [_words(service.get(key)) for key in ("entrypoint", "command")]
    return " ".join(word for word in words if word).replace("$$", "$").replace("\n", " ").strip()


def _words(value: object) -> str:
    return shlex.join(map(str, value)) if isinstance(value, list) else str(value or "")


def _type(name: str, service: dict[str, Any], place: str, notes: list[str]) -> ProcessType:
    deploy = service.get("deploy")
    deploy = deploy if isinstance(deploy, dict) else {}
    plain = ProcessType(name=name, command=_command(service))
    given_grace = service.get("stop_grace_period")
    grace_s = None if given_grace is None else seconds(given_grace)
    if given_grace is not None and grace_s is None:
        notes.append(f"{place}: stop_grace_period {given_grace} is no time")
    found = ProcessType(
        name=name,
        command=plain.command,
        initial_quantity=_quantity(service, deploy, place, notes),
        env=dict(_environment(service.get("environment"), place, notes)),
        limits=_limits(service, deploy),
        restart=_restart(service.get("restart"), deploy.get("restart_policy")),
        stop_signal=_signal(service.get("stop_signal", "TERM"), place, notes),
        stop_grace_s=plain.stop_grace_s if grace_s is None else grace_s,
    )
    if service.get("ports"):
        notes.append(f"{place}: publishes ports; here it listens on $PORT, formctl endpoints tells")
    notes += [f"{place}: {key} is not taken over" for key in _LEFT if service.get(key)]
    return found


def _quantity(service: dict[str, Any], deploy: dict[str, Any], place: str, notes: list[str]) -> int:
    given = deploy.get("replicas", service.get("scale", 1))
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return given
    notes.append(f"{place}: so many replicas is no number: {given}; 1 here")
    return 1


def _restart(given: object, policy: object) -> RestartPolicy:
    """`deploy.restart_policy` goes before `restart`; its `any` is always, `none` never.

    Who says nothing gets ours: compose's own default, never, is hardly meant for what is served.
    """
    if given is None and policy is None:
        return RestartPolicy.ALWAYS
    condition = policy.get("condition", "any") if isinstance(policy, dict) else None
    if condition is not None:
        given = {"any": "always", "none": "no"}.get(str(condition), condition)
    word = str(given).lower().partition(":")[0]
    return _RESTART.get(word, RestartPolicy.ALWAYS)


def _signal(given: object, place: str, notes: list[str]) -> str:
    found = signal_name(given)
    if found is None:
        notes.append(f"{place}: stop_signal {given} is not known here; TERM")
    return found or "TERM"


def _environment(given: object, place: str, notes: list[str]) -> Iterator[tuple[str, str]]:
    if isinstance(given, dict):
        pairs = [(str(name), value) for name, value in given.items()]
    elif isinstance(given, list):
        split = [str(item).partition("=") for item in given]
        pairs = [(name, value if equals else None) for name, equals, value in split]
    else:
        pairs = []
    for name, value in pairs:
        plain = None if value is None else _filled(value)
        if plain is None:
            notes.append(f"{place}: {name} has no value: formctl config set {name}=…")
        else:
            yield name, plain


def _filled(value: object) -> str | None:
    """With defaults where compose would fill something in; None where there is none."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if any(not m["dollar"] and m["default"] is None for m in _FILLED.finditer(text)):
        return None
    return _FILLED.sub(lambda m: "$" if m["dollar"] else m["default"], text)


def _limits(service: dict[str, Any], deploy: dict[str, Any]) -> Limits:
    resources = deploy.get("resources")
    limits = resources.get("limits") if isinstance(resources, dict) else None
    limits = limits if isinstance(limits, dict) else {}
    memory = _bytes(limits.get("memory", service.get("mem_limit")))
    try:
        cpus = max(0.0, float(limits.get("cpus", service.get("cpus", 0)) or 0))
    except (TypeError, ValueError):
        cpus = 0.0
    return Limits(memory_bytes=memory, cpus=cpus)


def _bytes(value: object) -> int:
    text = str(value or "").strip().lower()
    digits = text.rstrip("bkmg")
    unit = text[len(digits) :] or "b"
    try:
        return int(float(digits) * _UNITS.get(unit, 0))
    except (ValueError, OverflowError):
        return 0
