"""A pydantic schema as a structural schema, the only kind that a CustomResourceDefinition takes.

Structural schemas allow no `$ref`, no titles, no `propertyNames`, no `additionalProperties: false` beside properties
(https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/). Here they also
have a bound on every string, list and map, which CEL needs to estimate the cost of a rule, and a description of every
field, which `kubectl explain` shows. What cannot be said that way raises: a CRD is never half right.
"""

from typing import Any

from vmbackup.api.schema import PATTERN_MESSAGE, RULES

Schema = dict[str, Any]

# In the order of a reader: what it is, what it may be, what is in it.
KEPT = (
    "description", "type", "format", "enum", "default", "pattern", "minimum", "maximum", "minLength", "maxLength",
    "minItems", "maxItems", "minProperties", "maxProperties", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
    "x-kubernetes-validations", "required",
)  # fmt: skip
READ = {"title", "const", "properties", "items", "additionalProperties", "propertyNames", PATTERN_MESSAGE}


def structural(raw: Schema, definitions: Schema, path: str, *, defaults: bool) -> Schema:
    """Return one pydantic schema in structural form.

    Args:    definitions: what `$ref` refers to. path: for errors. defaults: whether the API server fills them in.
    Raises:  ValueError: it cannot be said in a structural schema, or it is unbounded, or a field is not described.
    """
    raw = _inlined(raw, definitions)
    if unknown := set(raw).difference(KEPT, READ):
        raise ValueError(f"{path}: structural.py cannot translate {', '.join(sorted(unknown))}")
    if "type" not in raw:
        raise ValueError(f"{path}: give the field one type")
    raw = _translated(raw, defaults=defaults)
    schema = {word: raw[word] for word in KEPT if word in raw}
    match raw["type"]:
        case "array":
            schema["items"] = structural(raw["items"], definitions, f"{path}[]", defaults=defaults)
        case "object" if "properties" in raw:
            required = raw.get("required", ())
            schema["properties"] = {
                name: _field(part, definitions, f"{path}.{name}", defaults=defaults, required=name in required)
                for name, part in raw["properties"].items()
            }
        case "object":
            values = raw["additionalProperties"]
            schema["additionalProperties"] = structural(values, definitions, f"{path}[]", defaults=defaults)
    _check_bounds(schema, path)
    return schema


def _field(raw: Schema, definitions: Schema, path: str, *, defaults: bool, required: bool) -> Schema:
    """Return the schema of a property: described, and an object that may be left out is made of its own defaults."""
    schema = structural(raw, definitions, path, defaults=defaults)
    if not schema.get("description"):
        raise ValueError(f"{path}: give the field a description, it is what `kubectl explain` shows")
    if defaults and not required and schema["type"] == "object" and "anyOf" not in raw:
        return {"description": schema.pop("description"), "type": schema.pop("type"), "default": {}} | schema
    return schema


def _inlined(raw: Schema, definitions: Schema) -> Schema:
    """Return the schema with `$ref` replaced and "or null" dropped: an optional field is left out, never null."""
    if "$ref" in raw:
        target = definitions[raw["$ref"].removeprefix("#/$defs/")]
        return _inlined(target | {word: value for word, value in raw.items() if word != "$ref"}, definitions)
    if "anyOf" in raw:
        options = [option for option in raw["anyOf"] if option != {"type": "null"}]
        if len(options) == 1:
            outer = {word: value for word, value in raw.items() if word != "anyOf" and value is not None}
            return _inlined(options[0] | outer, definitions)
    return raw


def _translated(raw: Schema, *, defaults: bool) -> Schema:
    """Return the schema in words that a CRD knows."""
    words = dict(raw)
    if not defaults:
        words.pop("default", None)
    if "const" in words:
        words["enum"] = [words["const"]]
    if words["type"] == "integer":
        words["format"] = "int64"
    if PATTERN_MESSAGE in words:
        rule = {"rule": f"self.matches(r'{words.pop('pattern')}')", "message": words[PATTERN_MESSAGE]}
        words[RULES] = [*words.get(RULES, ()), rule]
    return words


def _check_bounds(schema: Schema, path: str) -> None:
    bound = {"string": "maxLength", "array": "maxItems"}.get(schema["type"])
    if "additionalProperties" in schema:
        bound = "maxProperties"
    if bound and bound not in schema and "enum" not in schema:
        raise ValueError(f"{path}: bound the field (max_length in the model, {bound} in the schema)")
