"""foreman and honcho: a Procfile, `.env`, and `.foreman` with the quantities."""

from __future__ import annotations

from formation.releasecommand import RELEASE
from formctl.exporting.work import PRIVATE, Exported, File, Formation, lost

_FIRST_PORT = 5000


def write(formation: Formation) -> Exported:
    works = [work for work in formation.works if work.spec.schedule is None]
    types = [spec for spec in formation.types if spec.schedule is None]
    commands = {spec.name: spec.command for spec in types}
    if formation.command:  # of which `.foreman` says none, so nothing starts it
        commands[RELEASE] = formation.command
    procfile = "".join(f"{name}: {_command(command)}\n" for name, command in commands.items())
    quantities = ",".join(
        f"{spec.name}={sum(work.spec.name == spec.name for work in works)}" for spec in types
    )
    port = next((work.port for work in works if work.port), _FIRST_PORT)
    files = [
        File(path="Procfile", text=procfile),
        File(path=".foreman", text=f"formation: {quantities}\nport: {port}\n"),
    ]
    if formation.env:
        text = "".join(f"{name}={_quoted(value)}\n" for name, value in formation.env.items())
        files.append(File(path=".env", text=text, mode=PRIVATE))
    of_types = tuple(
        f"{spec.name}: env of a type is not known there, and left out" for spec in types if spec.env
    )
    return Exported(
        files=tuple(files),
        notes=(*lost(formation, (RELEASE,)), *of_types),
        then=(f"foreman start -d {formation.workdir}",),
    )


def _command(command: str) -> str:
    """On one line."""
    return " ".join(command.split("\n"))


def _quoted(value: str) -> str:
    plain = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{plain}"'
