"""A provider's schema, derived from its published bindings.

The bindings are generated from `terraform providers schema -json`, and give of every argument its name,
type and whether it is required, optional or computed. They do not state which values an argument takes
(enumerations, conflicts, formats), nor what is sensitive: a configuration that fits is *schema-checked*.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.infra.bindings import Bindings

Type = Any
"""A type as Terraform's JSON has it: "string", ["list", "string"], ["object", {…}], "dynamic"."""

_CLASS = re.compile(r"^class (\w+) extends cdktn\.(\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_STRUCT = re.compile(r"^function (\w+)ToHclTerraform\(struct\) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_TOP = re.compile(r"^    synthesizeHclAttributes\(\) \{\n(.*?)^    \}", re.MULTILINE | re.DOTALL)
_MEMBER = re.compile(
    r"^    // (?P<name>\w+) - computed: (?P<computed>true|false), optional: (?P<optional>true|false),"
    r" required: (?P<required>true|false)\n(?P<code>.*?)(?=^    // |\Z)",
    re.MULTILINE | re.DOTALL,
)
_ENTRY = re.compile(
    r"^ +'?(?P<name>\w+)'?: \{\n +value: (?P<value>[^\n]+),\n +isBlock: (?P<block>true|false),\n"
    r" +type: \"(?P<kind>\w+)\",\n +storageClassType: \"(?P<storage>[\w.]+)\"",
    re.MULTILINE,
)
_CONVERTED = re.compile(r"(\w+)ToHclTerraform")
# Large resources are spread over modules: their classes are called `structs0_1.Name`.
_NESTED = re.compile(r" = new (?:\w+_1\.)?(?P<class>[\w.]+)\(this, \"\w+\"(?:, (?P<set>true|false))?\)")
_GETTER = re.compile(r"return .*?(?P<set>cdktn\.Fn\.tolist\()?this\.get(?P<kind>\w+)Attribute\(")

_WORDS = {"string": "string", "number": "number", "boolean": "bool", "any": "dynamic"}
_GETTERS: Mapping[str, Type] = {
    "String": "string",
    "Number": "number",
    "Boolean": "bool",
    "List": ["list", "string"],
    "NumberList": ["list", "number"],
    "StringMap": ["map", "string"],
    "AnyMap": "dynamic",
}
_CLASSES: Mapping[str, Type] = {
    "cdktn.StringMap": ["map", "string"],
    "cdktn.StringMapList": ["list", ["map", "string"]],
}
_MODES = {"list": "LIST", "set": "SET", "map": "MAP", "struct": "SINGLE"}


class SchemaError(Exception):
    """The bindings are not written as this module reads them, or lack a type."""


@dataclass(frozen=True, slots=True)
class _Source:
    """The classes and conversions of one resource's files."""

    classes: Mapping[str, str]
    structs: Mapping[str, str]
    top: str
    name: str


@dataclass(slots=True)
class Schema:
    """The schema that one provider serves, as JSON that `stub_provider.py` reads."""

    provider: dict[str, Any]
    resources: dict[str, Any] = field(default_factory=dict)
    data_sources: dict[str, Any] = field(default_factory=dict)


def derive(bindings: Bindings, resources: Iterable[str], data_sources: Iterable[str]) -> Schema:
    """The schema of the provider's configuration and of these types.

    A type that the provider does not have is left out: Terraform then reports it. Raises `SchemaError`
    where the bindings cannot be read.
    """
    with bindings.sources() as code:
        schema = Schema(_block_of(code, "provider"))
        for kind, found, prefix in (
            (resources, schema.resources, ""),
            (data_sources, schema.data_sources, f"data-{bindings.provider}-"),
        ):
            for name in sorted(set(kind)):
                folder = prefix + name.removeprefix(f"{bindings.provider}_").replace("_", "-")
                if f"{folder}/index.js" in code.namelist():
                    found[name] = _block_of(code, folder)
    return schema


def _block_of(code: zipfile.ZipFile, folder: str) -> dict[str, Any]:
    names = [name for name in code.namelist() if name.startswith(f"{folder}/")]
    text = "\n".join(code.read(name).decode() for name in names)
    top = _TOP.search(text)
    classes = {found[1]: found[3] for found in _CLASS.finditer(text)}
    kinds = {"TerraformResource", "TerraformDataSource", "TerraformProvider"}
    own = [found[1] for found in _CLASS.finditer(text) if found[2] in kinds]
    if top is None or len(own) != 1:
        raise SchemaError(f"{code.filename}: {folder} has not one class with its arguments, but {own}.")
    structs = {found[1].lower(): found[2] for found in _STRUCT.finditer(text)}
    return _block(_Source(classes, structs, top[1], own[0]), own[0], top[1])


def _block(source: _Source, name: str, body: str) -> dict[str, Any]:
    """One block: the class has the flags and the computed attributes, the conversion the types."""
    entries = {found["name"]: found for found in _ENTRY.finditer(body)}
    attributes: dict[str, Any] = {}
    blocks: dict[str, Any] = {}
    for member in _MEMBER.finditer(source.classes[name]):
        entry = entries.pop(member["name"], None)
        flags = {flag: member[flag] == "true" for flag in ("required", "optional", "computed")}
        if entry is None:
            attributes[member["name"]] = {"type": _computed(source, member["code"]), **flags}
        elif entry["block"] == "true":
            blocks[member["name"]] = _nested(source, member, entry)
        else:
            attributes[member["name"]] = {"type": _type(entry), **flags}
    if entries:
        raise SchemaError(f"{name} converts {', '.join(entries)}, which its class does not describe.")
    return {"attributes": attributes, "blocks": blocks}


def _nested(source: _Source, member: re.Match[str], entry: re.Match[str]) -> dict[str, Any]:
    converted = _CONVERTED.search(entry["value"])
    if converted is None or converted[1].lower() not in source.structs:
        raise SchemaError(f"{source.name}.{entry['name']} has no conversion: {entry['value']}.")
    struct = converted[1][0].upper() + converted[1][1:]
    mode = _MODES[entry["kind"]]
    body = source.structs[struct.lower()]
    held = _NESTED.search(member["code"])
    # A block that may occur once is held by its reference, one that may be repeated by a list of them.
    once = mode in {"LIST", "SET"} and held is not None and held["class"].endswith("OutputReference")
    has_class = f"{struct}OutputReference" in source.classes
    return {
        "mode": mode,
        "min": 1 if member["required"] == "true" and mode != "SINGLE" else 0,
        "max": 1 if once else 0,
        "block": _block(source, f"{struct}OutputReference", body)
        if has_class
        else _plain(source, body),
    }


def _plain(source: _Source, body: str) -> dict[str, Any]:
    """A block of the provider's configuration: no class states what is required."""
    attributes: dict[str, Any] = {}
    blocks: dict[str, Any] = {}
    for entry in _ENTRY.finditer(body):
        converted = _CONVERTED.search(entry["value"])
        if entry["block"] == "true" and converted is not None:
            nested = _plain(source, source.structs[converted[1].lower()])
            blocks[entry["name"]] = {
                "mode": _MODES[entry["kind"]],
                "min": 0,
                "max": 0,
                "block": nested,
            }
        else:
            attributes[entry["name"]] = {
                "type": _type(entry),
                "required": False,
                "optional": True,
                "computed": False,
            }
    return {"attributes": attributes, "blocks": blocks}


def _type(entry: re.Match[str]) -> Type:
    """An argument's type: `stringList` with the kind `set` is a set of strings."""
    storage, kind = entry["storage"], entry["kind"]
    found = re.fullmatch(r"(string|number|boolean|any)((?:List|Map|Set)*)", storage)
    if found is None:
        raise SchemaError(f"The argument {entry['name']} is of an unknown type: {storage}.")
    result: Type = _WORDS[found[1]]
    if result == "dynamic":
        return result
    for wrapper in re.findall("List|Map|Set", found[2]):
        result = [wrapper.lower(), result]
    if kind == "set" and isinstance(result, list):
        result = ["set", result[1]]
    return result


def _computed(source: _Source, code: str) -> Type:
    """The type of an attribute that only the provider sets."""
    nested, getter = _NESTED.search(code), _GETTER.search(code)
    if nested is not None:
        name = nested["class"]
        if name in _CLASSES:
            return _CLASSES[name]
        single = name.endswith("OutputReference")
        item = name if single else re.sub(r"(?:List|Map)$", "", name) + "OutputReference"
        members = _MEMBER.finditer(source.classes[item])
        fields = {found["name"]: _computed(source, found["code"]) for found in members}
        return ["set" if nested["set"] == "true" else "list", ["object", fields]]
    if getter is None:
        raise SchemaError(f"{source.name} has an attribute of an unknown type: {code[:200]}")
    result = _GETTERS[getter["kind"]]
    return ["set", result[1]] if getter["set"] else result
