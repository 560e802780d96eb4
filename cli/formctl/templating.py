"""Endpoints through a template of the user's own, in Jinja's sandbox.

Jinja is an extra: imported when a template is given, and only then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from formctl.endpoints import Kinds
from formctl.errors import CommandError, InputError

if TYPE_CHECKING:
    from jinja2 import Template

_MISSING = "--template needs Jinja: pip install 'formctl[templates]'"


def compiled(path: str) -> Callable[[str, Kinds], str]:
    """(app, endpoints by type) → text. Raises `InputError`; the function `CommandError`."""
    try:
        from jinja2 import StrictUndefined, TemplateSyntaxError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise CommandError(_MISSING) from None
    # What it makes is no HTML. A name that is wrong is an error, not an empty place.
    environment = ImmutableSandboxedEnvironment(
        autoescape=False,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        with open(path, encoding="utf-8") as file:
            template = environment.from_string(file.read())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: no UTF-8") from None
    except TemplateSyntaxError as error:
        raise InputError(f"{path}:{error.lineno}: {error.message}") from None
    return lambda app, kinds: _rendered(path, template, app, kinds)


def _rendered(path: str, template: Template, app: str, kinds: Kinds) -> str:
    types = {kind: [_plain(item) for item in group] for (_, kind), group in kinds.items()}
    try:
        return template.render(app=app, types=types, endpoints=_flat(types.values()))
    except _wrong() as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise CommandError(f"{path}{_line_of(error)}: {said}") from None


def _wrong() -> tuple[type[Exception], ...]:
    """Whatever a template can do wrong."""
    from jinja2 import TemplateError

    return (
        TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
        ValueError,
    )  # fmt: skip


def _plain(item: object) -> Mapping[str, object]:
    names = ("app", "type", "name", "ordinal", "host", "address", "port", "target", "release")
    return {name: getattr(item, name) for name in names}


def _flat(groups: Iterable[list[Mapping[str, object]]]) -> list[Mapping[str, object]]:
    return [item for group in groups for item in group]


def _line_of(error: BaseException) -> str:
    """Of the template, as Jinja writes it into the traceback."""
    trace, found = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            found = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return found
