"""Write the page's OpenAPI document and its readable form, or with --check say if they are stale.

From proto/ with its comments, and from `calls.py`, which says what may be asked over HTTP.
"""

from __future__ import annotations

import argparse
import html
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet
from grpc_tools import protoc

import formation
from formation.v1 import control_pb2
from formation_coordinator.web.calls import CHANGING, FOLLOWING, READING

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "coordinator/formation_coordinator/web/static"
SERVICE = control_pb2.DESCRIPTOR.services_by_name["Control"]

_MESSAGES, _SERVICES, _FIELDS, _METHODS, _NESTED = (
    4,
    6,
    2,
    2,
    3,
)  # field numbers of descriptor.proto
_LONG = {
    FieldDescriptor.CPPTYPE_INT64: "int64",
    FieldDescriptor.CPPTYPE_UINT64: "uint64",
}
_PLAIN: dict[int, dict[str, Any]] = {
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number"},
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "minimum": 0},
}
Json = dict[str, Any]


# ------------------------------------------------------------------------------ what comments say


def comments() -> dict[str, str]:
    """By full name of message, field or method; generated code has them no more."""
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "all"
        sources = sorted(str(p.relative_to(ROOT / "proto")) for p in ROOT.glob("proto/**/*.proto"))
        flags = ["--include_source_info", f"--descriptor_set_out={made}"]
        if protoc.main(["protoc", f"-I{ROOT / 'proto'}", *flags, *sources]) != 0:
            sys.exit("genopenapi: protoc failed, see above")
        files = FileDescriptorSet.FromString(made.read_bytes()).file
    found: dict[str, str] = {}
    for file in files:
        said = {
            tuple(place.path): " ".join(
                f"{place.leading_comments} {place.trailing_comments}".split()
            )
            for place in file.source_code_info.location
        }
        names: dict[tuple[int, ...], str] = {}
        for number, message in enumerate(file.message_type):
            names |= dict(_named(message, (_MESSAGES, number), file.package))
        for number, service in enumerate(file.service):
            for place, method in enumerate(service.method):
                names[_SERVICES, number, _METHODS, place] = (
                    f"{file.package}.{service.name}.{method.name}"
                )
        found |= {name: said[path] for path, name in names.items() if said.get(path)}
    return found


def _named(
    message: DescriptorProto, path: tuple[int, ...], parent: str
) -> Iterator[tuple[tuple[int, ...], str]]:
    name = f"{parent}.{message.name}"
    yield path, name
    for number, field in enumerate(message.field):
        yield (*path, _FIELDS, number), f"{name}.{field.name}"
    for number, nested in enumerate(message.nested_type):
        yield from _named(nested, (*path, _NESTED, number), name)


# ------------------------------------------------------------------------------ schemas


def reached(roots: list[Descriptor]) -> list[Descriptor]:
    """All messages that these can hold, by name."""
    found: dict[str, Descriptor] = {}
    todo = list(roots)
    while todo:
        message = todo.pop()
        if message.full_name in found:
            continue
        found[message.full_name] = message
        todo += [field.message_type for field in message.fields if field.message_type]
    kept = (item for item in found.values() if not item.GetOptions().map_entry)
    return sorted(kept, key=lambda item: item.full_name)


def short(message: Descriptor) -> str:
    return str(message.full_name).removeprefix(f"{control_pb2.DESCRIPTOR.package}.")


def message_schema(message: Descriptor, said: dict[str, str]) -> Json:
    properties = {}
    for field in message.fields:
        schema = field_schema(field)
        if text := said.get(field.full_name):
            # What stands beside a reference is not read by everyone.
            schema = {"allOf": [schema]} if "$ref" in schema else schema
            schema["description"] = text
        properties[field.name] = schema
    made: Json = {"type": "object", "properties": properties, "additionalProperties": False}
    if text := said.get(message.full_name):
        made["description"] = text
    return made


def field_schema(field: FieldDescriptor) -> Json:
    kept = field.message_type
    if kept is not None and kept.GetOptions().map_entry:
        value = kept.fields_by_name["value"]
        return {"type": "object", "additionalProperties": one_schema(value)}
    one = one_schema(field)
    return {"type": "array", "items": one} if field.is_repeated else one


def one_schema(field: FieldDescriptor) -> Json:
    if field.message_type is not None:
        return {"$ref": f"#/components/schemas/{short(field.message_type)}"}
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    if field.cpp_type in _LONG:  # JSON's numbers are not exact so far
        return {"type": "string", "format": _LONG[field.cpp_type], "pattern": "^-?[0-9]+$"}
    if field.type == FieldDescriptor.TYPE_BYTES:
        return {"type": "string", "contentEncoding": "base64"}
    return dict(_PLAIN.get(field.cpp_type, {"type": "string"}))


# ------------------------------------------------------------------------------ the document


def operation(name: str, said: dict[str, str], *, method: str) -> Json:
    called = SERVICE.methods_by_name[name]
    text = said.get(called.full_name, "")
    streams = name in FOLLOWING
    kind = "text/event-stream" if streams else "application/json"
    made: Json = {
        "operationId": name if method == "post" or streams else f"{name}ByQuery",
        "tags": ["follow" if streams else "read" if name in READING else "change"],
        "summary": text or name,
        "responses": {
            "200": {
                "description": "Events named message, each with this." if streams else "Done.",
                "content": {kind: {"schema": _reference(called.output_type)}},
            },
            "default": {
                "description": "It was not done; why.",
                "content": {"application/json": {"schema": _reference_to("Refused")}},
            },
        },
    }
    if method == "get":
        made["parameters"] = list(parameters(called.input_type, said))
    else:
        made["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _reference(called.input_type)}},
        }
    return made


def parameters(message: Descriptor, said: dict[str, str]) -> Iterator[Json]:
    """Fields that fit into a query: what is neither a message nor repeated."""
    for field in message.fields:
        if field.message_type is None and not field.is_repeated:
            made: Json = {"name": field.name, "in": "query", "schema": one_schema(field)}
            if text := said.get(field.full_name):
                made["description"] = text
            yield made


def _reference(message: Descriptor) -> Json:
    return _reference_to(short(message))


def _reference_to(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def document() -> Json:
    said = comments()
    paths: Json = {}
    for name in sorted(READING | CHANGING):
        paths[f"/api/{name}"] = {"post": operation(name, said, method="post")}
        if name in READING:
            paths[f"/api/{name}"]["get"] = operation(name, said, method="get")
    for name in sorted(FOLLOWING):
        paths[f"/events/{name}"] = {"get": operation(name, said, method="get")}
    called = [SERVICE.methods_by_name[name] for name in READING | CHANGING | FOLLOWING]
    messages = reached([item for call in called for item in (call.input_type, call.output_type)])
    schemas = {short(message): message_schema(message, said) for message in messages}
    schemas["Refused"] = {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string", "description": "One line for people."}},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Formation",
            "version": formation.__version__,
            "description": (
                "What a coordinator answers over HTTP (--http). Each path is a method of "
                "formation.v1.Control in gRPC, with proto3's JSON: 64-bit numbers are strings, "
                "and what is zero or empty is left out."
            ),
        },
        "security": [{"certificate": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "certificate": {"type": "mutualTLS", "description": "As formctl login gives it."},
                "session": {
                    "type": "apiKey", "in": "cookie", "name": "__Host-formation",
                    "description": (
                        "Of formctl login --web. A change also needs the header "
                        "X-Formation-Csrf with what /api/session tells, and its Origin."
                    ),
                },
            },
        },
    }  # fmt: skip


# ------------------------------------------------------------------------------ for people

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Formation: the API over HTTP</title>
<link rel="icon" href="icon.svg">
<link rel="stylesheet" href="style.css">
</head>
<body class="api">
<main>
<h1>The API over HTTP</h1>
<p>{intro} For tools: <a href="openapi.json">openapi.json</a> (OpenAPI 3.1).</p>
{body}
</main>
</body>
</html>
"""


def page(made: Json) -> str:
    parts: list[str] = []
    for tag, title in (("read", "Reading"), ("follow", "Following"), ("change", "Changing")):
        parts.append(f"<h2>{title}</h2>")
        for path, methods in made["paths"].items():
            found = methods.get("post") or methods["get"]
            if tag in found["tags"]:
                parts += entry(path, methods, found)
    parts.append("<h2>What is in it</h2>")
    for name, schema in made["components"]["schemas"].items():
        parts.append(f'<h3 id="{name}">{name}</h3>')
        parts.append(f"<p>{html.escape(schema.get('description', ''))}</p>")
        parts += table(schema["properties"])
    return _PAGE.format(intro=html.escape(made["info"]["description"]), body="\n".join(parts))


def entry(path: str, methods: Json, found: Json) -> list[str]:
    verbs = ", ".join(sorted(verb.upper() for verb in methods))
    answer = next(iter(found["responses"]["200"]["content"].values()))["schema"]
    body = found.get("requestBody", {}).get("content", {}).get("application/json", {})
    asks = link(body["schema"]) if body else "its query"
    parts = [
        f"<h3><code>{verbs} {path}</code></h3>",
        f"<p>{html.escape(found['summary'])}</p>",
        f"<p>Takes {asks}, answers with {link(answer)}.</p>",
    ]
    if not body:
        parts += table({item["name"]: item["schema"] | item for item in found["parameters"]})
    return parts


def table(properties: Json) -> list[str]:
    if not properties:
        return ["<p>Nothing.</p>"]
    rows = [
        f"<tr><td><code>{name}</code></td><td>{kind(schema)}</td>"
        f"<td>{html.escape(schema.get('description', ''))}</td></tr>"
        for name, schema in properties.items()
    ]
    head = "<thead><tr><th>name</th><th>type</th><th>meaning</th></tr></thead>"
    return [f'<div class="wide"><table>{head}<tbody>', *rows, "</tbody></table></div>"]


def link(schema: Json) -> str:
    name = schema["$ref"].rpartition("/")[2]
    return f'<a href="#{name}">{name}</a>'


def kind(schema: Json) -> str:
    if "allOf" in schema:
        return kind(schema["allOf"][0])
    if "$ref" in schema:
        return link(schema)
    if schema["type"] == "array":
        return f"list of {kind(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"name → {kind(schema['additionalProperties'])}"
    if "enum" in schema:
        return " <br>".join(f"<code>{name}</code>" for name in schema["enum"])
    return str(schema.get("format") or schema["type"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when stale")
    check: bool = parser.parse_args().check
    made = document()
    texts = {
        "openapi.json": json.dumps(made, indent=1, ensure_ascii=False) + "\n",
        "api.html": page(made),
    }
    for name, text in texts.items():
        file = OUTPUT / name
        if file.exists() and file.read_text() == text:
            continue
        if check:
            sys.exit(f"genopenapi: stale: {name}; run: make openapi")
        file.write_text(text)


if __name__ == "__main__":
    main()
