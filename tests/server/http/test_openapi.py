"""The published document: complete, sound, and made of the types that requests are decoded with."""

from __future__ import annotations

import json
import re
from typing import Any

from jsonschema import Draft202012Validator

from server.app import create_app
from server.config import ServerConfig
from server.http.openapi import document
from server.http.operations import ALL
from server.version import VERSION

DOCUMENT: Any = json.loads(document(ALL, VERSION))


def test_every_route_that_is_registered_is_in_it_and_no_other() -> None:
    app = create_app(ServerConfig())
    registered = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    told = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert told == registered


def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    known = DOCUMENT["components"]["schemas"]
    references = set(re.findall(r'"\$ref": ?"#/components/schemas/([^"]+)"', json.dumps(DOCUMENT)))
    assert references <= known.keys()
    for schema in known.values():
        Draft202012Validator.check_schema(schema)


def test_operations_have_ids_of_their_own() -> None:
    ids = [told["operationId"] for methods in DOCUMENT["paths"].values() for told in methods.values()]
    assert len({*ids}) == len(ids) > 30


def test_what_a_path_has_in_braces_is_a_parameter() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for told in methods.values():
            named = {each["name"] for each in told.get("parameters", []) if each["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))


def test_fields_that_are_only_there_to_be_refused_are_not_published() -> None:
    chat = DOCUMENT["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "response_format", "parrot", "priority", "prompt_logprobs"} <= chat.keys()
    assert not {"audio", "functions", "prediction", "use_beam_search"} & chat.keys()
