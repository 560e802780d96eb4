"""Proto style that protoc does not check: names, zero values, comments on services, field numbers.

Usage: python tools/lintproto.py — prints file: problem lines and exits 1 when there are any.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2 as d
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parent.parent / "proto"


def descriptors() -> d.FileDescriptorSet:
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    with tempfile.NamedTemporaryFile() as out:
        arguments = ["protoc", f"-I{PROTO}", "--include_source_info", f"-o{out.name}", *sources]
        if protoc.main(arguments) != 0:
            sys.exit("lintproto: protoc failed, see above")
        return d.FileDescriptorSet.FromString(Path(out.name).read_bytes())


def upper_snake(name: str) -> str:
    return "".join(f"_{c}" if c.isupper() else c for c in name).strip("_").upper()


def enum_problems(enum: d.EnumDescriptorProto) -> Iterator[str]:
    prefix = upper_snake(enum.name)
    if enum.value[0].name != f"{prefix}_UNSPECIFIED" or enum.value[0].number != 0:
        yield f"enum {enum.name}: the first value must be {prefix}_UNSPECIFIED = 0"
    for value in enum.value:
        if not value.name.startswith(f"{prefix}_"):
            yield f"enum {enum.name}: {value.name} must start with {prefix}_"


def message_problems(message: d.DescriptorProto) -> Iterator[str]:
    numbers = sorted(field.number for field in message.field)
    if numbers != list(range(1, len(numbers) + 1)) and not message.reserved_range:
        yield f"message {message.name}: a gap in the field numbers needs a reserved line"
    for field in message.field:
        if field.name != field.name.lower() or field.name.startswith("_"):
            yield f"message {message.name}: field {field.name} must be lower_snake_case"
    for enum in message.enum_type:
        yield from enum_problems(enum)
    for nested in message.nested_type:
        if not nested.options.map_entry:
            yield from message_problems(nested)


def service_problems(service: d.ServiceDescriptorProto) -> Iterator[str]:
    for method in service.method:
        stem, streaming = method.name, method.client_streaming or method.server_streaming
        if not streaming:
            if not method.input_type.endswith(f".{stem}Request"):
                yield f"{service.name}.{stem}: the request must be {stem}Request"
            if not method.output_type.endswith(f".{stem}Response"):
                yield f"{service.name}.{stem}: the response must be {stem}Response"


def file_problems(file: d.FileDescriptorProto) -> Iterator[str]:
    if file.package != str(Path(file.name).parent).replace("/", "."):
        yield f"package {file.package} must follow the path"
    if not any(loc.leading_detached_comments or loc.leading_comments for loc in _head(file)):
        yield "the file must start with a comment that says what it is for"
    for enum in file.enum_type:
        yield from enum_problems(enum)
    for message in file.message_type:
        yield from message_problems(message)
    for service in file.service:
        yield from service_problems(service)


def _head(file: d.FileDescriptorProto) -> list[d.SourceCodeInfo.Location]:
    syntax_path = [d.FileDescriptorProto.SYNTAX_FIELD_NUMBER]
    return [loc for loc in file.source_code_info.location if list(loc.path) == syntax_path]


def main() -> None:
    problems = [f"{f.name}: {p}" for f in descriptors().file for p in file_problems(f)]
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
