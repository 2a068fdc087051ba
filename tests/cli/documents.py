"""The schemas of docs/schemas, and documents held against them."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from program import ROOT

SCHEMAS = ROOT / "docs" / "schemas"


@cache
def validator(name: str) -> Draft202012Validator:
    """The validator of docs/schemas/<name>.schema.json; references to its neighbours are resolved."""
    contents = {path.name: json.loads(path.read_text("utf-8")) for path in SCHEMAS.glob("*.schema.json")}
    resources = [(key, Resource.from_contents(value, DRAFT202012)) for key, value in contents.items()]
    return Draft202012Validator(contents[f"{name}.schema.json"], registry=Registry().with_resources(resources))


def checked(document: Any) -> Any:
    """`document` if it fits the schema that it names; raises ValidationError where it does not."""
    kind, _, version = document["schema"].removeprefix("bertx.").partition("/")
    assert version == "1"
    validator(kind).validate(document)
    return document
