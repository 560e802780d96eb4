"""A plugin of mypy: changes of Structs are checked as those of dataclasses are.

msgspec declares `structs.replace` with `**changes: Any`. mypy takes a Struct for a dataclass, but
`dataclasses.replace` and its like fail with one at run time.
"""

from __future__ import annotations

from collections.abc import Callable

from mypy.plugin import FunctionContext, FunctionSigContext, Plugin
from mypy.plugins.dataclasses import replace_function_sig_callback
from mypy.types import FunctionLike, Instance, Type, TypeVarType, UnionType, get_proper_type

_OF_DATACLASSES = {f"dataclasses.{name}" for name in ("asdict", "astuple", "fields", "replace")}


class Structs(Plugin):
    def get_function_signature_hook(
        self, fullname: str
    ) -> Callable[[FunctionSigContext], FunctionLike] | None:
        return replace_function_sig_callback if fullname == "msgspec.structs.replace" else None

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        return _refuse_structs if fullname in _OF_DATACLASSES else None


def _refuse_structs(context: FunctionContext) -> Type:
    if _is_struct(context.arg_types[0][0]):
        context.api.fail("This is a Struct: use msgspec.structs", context.context)
    return context.default_return_type


def _is_struct(given: Type) -> bool:
    match get_proper_type(given):
        case Instance() as instance:
            return instance.type.has_base("msgspec.Struct")
        case UnionType() as union:
            return any(map(_is_struct, union.items))
        case TypeVarType() as variable:
            return _is_struct(variable.upper_bound)
    return False


def plugin(version: str) -> type[Structs]:
    """Called by mypy, with its version."""
    return Structs
