"""supervisord: one file with a program for each instance, and a group of them.

http://supervisord.org/configuration.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from formation.model import ProcessType, RestartPolicy, StopTo
from formctl.exporting.work import PRIVATE, SHELL, Exported, File, Formation, Work, lost, own, whole

_RESTART = {
    RestartPolicy.ALWAYS: "true",
    RestartPolicy.ON_FAILURE: "unexpected",
    RestartPolicy.NEVER: "false",
}
# It looks for these letters before anything else, so that there is no way to write them.
_HERE = "%(here)s"
# After white space they begin a comment, in quotes too.
_COMMENT = re.compile(r"(\s)([;#])")
_APART = r'\1""\2'
_SIMPLE = re.compile(r"[A-Za-z0-9_/=.:-]+")
_QUOTES = ("'", '"')
_KEPT = ("restart", "stop.signal", "stop.grace", "stop.to", "umask", "user")


def write(formation: Formation) -> Exported:
    works = tuple(work for work in formation.works if work.spec.schedule is None)
    names = ",".join(_name(formation.app, work) for work in works)
    parts = [_program(formation, work) for work in works]
    parts.append(f"[group:{formation.app}]\nprograms={names}\n")
    return Exported(
        files=(
            File(
                path=f"etc/supervisor/conf.d/{formation.app}.conf",
                text="\n".join(parts),
                mode=PRIVATE,
            ),
        ),
        notes=(*lost(formation, _KEPT), *_replaced(formation)),
        then=("cp -R etc/. /etc/", "supervisorctl update"),
    )


def _replaced(formation: Formation) -> Iterator[str]:
    for spec in formation.types:
        variables = formation.variables(spec)
        if any(_HERE in text for text in (spec.command, *variables.values())):
            yield f"{spec.name}: {_HERE} is replaced there by a directory, however it is written"
        for name, value in variables.items():
            if "\n" in value:
                yield f"{spec.name}: {name} has several lines, which cannot be written there"


def _name(app: str, work: Work) -> str:
    return f"{app}-{work.name}"


def _program(formation: Formation, work: Work) -> str:
    spec = work.spec
    known = {**formation.variables(spec), **own(work)}
    variables = {name: value for name, value in known.items() if "\n" not in value}
    plain = {name: value for name, value in variables.items() if _is_plain(value)}
    # Which the shell is given by env(1), by then another program.
    others = [f"{name}={value}" for name, value in variables.items() if name not in plain]
    argv = [*(["/usr/bin/env", *others] if others else []), SHELL, "-c", spec.command]
    lines = [
        f"[program:{_name(formation.app, work)}]",
        f"command={' '.join(map(_word, argv))}",
        f"directory={_percents(formation.directory(spec))}",
        f"environment={','.join(f'{name}={_value(value)}' for name, value in plain.items())}",
        *_ends(spec),
        *_who(formation, spec),
        "redirect_stderr=true",
    ]
    return "\n".join(lines) + "\n"


def _ends(spec: ProcessType) -> Iterator[str]:
    yield f"autorestart={_RESTART[spec.restart]}"
    # What ends sooner has failed to start, whatever it ended with; after some tries it is given up.
    starts = spec.restart is RestartPolicy.ALWAYS and spec.ready_after_s > 0
    yield f"startsecs={whole(spec.ready_after_s) if starts else 0}"
    yield "startretries=1000000"
    yield f"stopsignal={spec.stop_signal}"
    yield f"stopwaitsecs={whole(spec.stop_grace_s)}"
    if spec.stop_to is StopTo.GROUP:
        yield "stopasgroup=true"
    yield "killasgroup=true"


def _who(formation: Formation, spec: ProcessType) -> Iterator[str]:
    if user := formation.who(spec):
        yield f"user={user}"
    if spec.umask >= 0:
        yield f"umask={spec.umask:03o}"


def _is_plain(value: str) -> bool:
    """Can be a value of `environment`: there is no way to escape anything in it, quotes at its ends
    are lost, and a comment begins in it as anywhere."""
    quoted = any(value.startswith(q) or value.endswith(q) for q in _QUOTES if value)
    return not (quoted or all(q in value for q in _QUOTES) or _COMMENT.search(value))


def _value(value: str) -> str:
    quote = "'" if '"' in value else '"'
    return f"{quote}{_percents(value)}{quote}"


def _word(text: str) -> str:
    """One of `command`, which is read as Python's shlex does."""
    if _SIMPLE.fullmatch(text):
        return text
    escaped = _percents(text).replace("\\", "\\\\").replace('"', '\\"')
    # Where a comment would begin, the quotes end and begin anew in between.
    return f'"{_COMMENT.sub(_APART, escaped)}"'


def _percents(text: str) -> str:
    """Percent signs begin expressions there."""
    return text.replace("%", "%%")
