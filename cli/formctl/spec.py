"""Reads what an app is: formation.toml or Procfile, and `.env`. Every problem is told at once.

Reads files, changes nothing; whoever calls decides what to do with the app.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from formation import manifest, procfile
from formation.builds import Build
from formation.model import ProcessType
from formation.names import APP_NAME
from formation.quantities import initial_quantity
from formation.releasecommand import RELEASE, ReleaseCommand
from formctl.errors import InputError
from formctl.naming import MANIFEST, STDIN, app_name, text_of

PROCFILE = "Procfile"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSpec:
    """`app` is empty when no file names it; `notes` are lines that a person should see.
    `names_workdir`: somebody has said where the code lies. `command`: the release command."""

    source: str
    directory: str
    types: tuple[ProcessType, ...]
    app: str = ""
    workdir: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    names_workdir: bool = False
    build: Build | None = None
    command: ReleaseCommand | None = None

    @property
    def type_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.types)


def read(
    file: str | None = None,
    *,
    directory: str = ".",
    env_file: str | None = None,
    workdir: str | None = None,
    strict: bool = False,
) -> AppSpec:
    """`file` and `env_file` are taken from `directory`; without them the usual names are tried."""
    from formctl import envfile  # dotenv brings much along that --help does not need

    path = _chosen(file, directory)
    beside = os.path.abspath(directory if path == STDIN else os.path.dirname(path) or ".")
    problems: list[str] = []
    spec = AppSpec(source=path, directory=beside, types=())
    try:
        spec = _described(spec, strict)
    except (procfile.ProcfileError, manifest.ManifestError) as error:
        problems += error.problems
    try:
        spec = _with_env(spec, _env_path(env_file, directory, path))
    except envfile.EnvFileError as error:
        problems += error.problems
    if problems:
        raise InputError.of(problems)
    chosen = os.path.abspath(workdir) if workdir else spec.workdir or beside
    return replace(spec, workdir=chosen, names_workdir=bool(workdir or spec.workdir))


def check_app(name: str) -> None:
    """The coordinator would refuse it too, but then something may be running already."""
    if not APP_NAME.fullmatch(name):
        rule = "lower case letters, digits and . _ - , at most 63"
        raise InputError(f"{name!r} is no app name: {rule}")


def chosen_app(named: str, found: AppSpec) -> str:
    """`named` by the caller, else by the file, else like the directory."""
    name = named or found.app or app_name(found.directory)
    if not name:
        raise InputError(f"no app can be named after {found.directory}; give --app NAME")
    check_app(name)
    return name


def _chosen(file: str | None, directory: str) -> str:
    if file == STDIN:
        return STDIN
    if file is not None:
        return os.path.join(directory, file) if directory != "." else file
    for name in (MANIFEST, PROCFILE):
        path = os.path.join(directory, name) if directory != "." else name
        if os.path.exists(path):
            return path
    where = os.path.abspath(directory)
    raise InputError(f"neither {MANIFEST} nor {PROCFILE} in {where}; name one with -f FILE")


def _described(spec: AppSpec, strict: bool) -> AppSpec:
    path = spec.source
    from formctl import envfile

    if path.endswith(".toml"):
        found = manifest.parse(text_of(path), path)
        tables = {"env": found.env} | {f"types.{t.name}.env": t.env for t in found.types}
        notes = tuple(
            f"{path}: {table}.{line}"
            for table, values in tables.items()
            for line in envfile.reserved_names(values)
        )
        return replace(
            spec,
            types=found.types,
            app=found.app,
            workdir=found.workdir,
            env=found.env,
            build=found.build,
            notes=notes,
            command=found.command,
        )
    return of_procfile(spec, strict=strict)


def of_procfile(spec: AppSpec, *, strict: bool = False) -> AppSpec:
    """With what its source says. Raises `ProcfileError` and `InputError`."""
    path = spec.source
    source = "standard input" if path == STDIN else path
    parsed = procfile.parse(text_of(path), source=source, strict=strict)
    types = tuple(
        ProcessType(
            name=entry.name, command=entry.command, initial_quantity=initial_quantity(entry.name)
        )
        for entry in parsed.types
        if entry.name != RELEASE
    )
    command = next((e.command for e in parsed.types if e.name == RELEASE), "")
    if not types:
        only = f"only a {RELEASE} command, and no process that it is for"
        raise procfile.ProcfileError((f"{source}: {only}; add a line such as: web: ./server",))
    return replace(
        spec,
        types=types,
        notes=parsed.warnings,
        command=ReleaseCommand(command=command) if command else None,
    )


def _env_path(env_file: str | None, directory: str, spec_path: str) -> str | None:
    if env_file is not None:
        return os.path.join(directory, env_file) if directory != "." else env_file
    near = os.path.join(directory, ".") if spec_path == STDIN else spec_path
    usual = os.path.normpath(os.path.join(os.path.dirname(near), ".env"))
    return usual if os.path.isfile(usual) else None


def _with_env(spec: AppSpec, path: str | None) -> AppSpec:
    """`.env` is nearer to this machine than formation.toml's [env], so it wins."""
    if path is None:
        return spec
    from formctl import envfile

    found = envfile.parse(text_of(path), path)
    return replace(spec, env={**spec.env, **found.values}, notes=(*spec.notes, *found.warnings))
