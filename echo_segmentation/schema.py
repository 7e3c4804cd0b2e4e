"""What files hold that anybody may have written: CSV, JSON, settings; checked against a schema, wrong in one line.

A schema is a class of pydantic's or, for settings, the dataclass itself: its types, and the ranges beside them, hold
for flags and for files alike. This small file stands in each of the three script folders.
"""

import codecs
import csv
import dataclasses
import io
import reprlib
from collections.abc import Sequence
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic_core import from_json

from command import UserError
from text_files import SEPARATORS, decode_text, with_decimal_point

LONGEST_VALUE = 60  # characters of a wrong value that are told


class Record(BaseModel):
    """A schema in which numbers are finite and unknown entries are passed over."""

    model_config = ConfigDict(
        extra="ignore", allow_inf_nan=False, arbitrary_types_allowed=True, protected_namespaces=()
    )


@cache
def schema_of(settings_class: type) -> type[Record]:
    """The fields of a dataclass as a schema, of which each may be absent."""
    hints = get_type_hints(settings_class, include_extras=True)
    fields = {field.name: (hints[field.name], None) for field in dataclasses.fields(settings_class)}
    return create_model(settings_class.__name__, __base__=Record, **fields)


def check_settings(settings: Any) -> None:
    """Raise UserError, naming the flag, for the first value of a settings dataclass that is out of its range."""
    try:
        schema_of(type(settings)).model_validate(vars(settings))
    except ValidationError as error:
        name, *rest = map(str, error.errors(include_url=False)[0]["loc"])
        spelt = name.replace("_", "-") if getattr(settings, "DASHES", False) else name
        told = _problem(error, without_place=True)
        raise UserError(f"--{spelt} {told}") from None


def known_settings(settings_class: type, values: Any, where: str) -> dict[str, Any]:
    """Those of `values`, by name, that are fields of a dataclass, in its types. Raises UserError for a wrong one."""
    return checked(schema_of(settings_class), values, where).model_dump(exclude_unset=True)


def checked(schema: Any, value: Any, where: str) -> Any:
    """`value` in the types of `schema` (any type that pydantic knows). Raises UserError: `where`, and what is wrong."""
    try:
        return _adapter(schema).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{where}: {_problem(error)}") from None


@cache
def _adapter(schema: Any) -> TypeAdapter:
    return TypeAdapter(schema)


def _problem(error: ValidationError, without_place: bool = False) -> str:
    """The first problem of `error` in one line, and how many more there are."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = "" if without_place else ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    told = place if first["type"] == "missing" else f"{place} {shown(first['input'])}".strip()
    return f"{told}: {first['msg'][:1].lower()}{first['msg'][1:]}{more}"


def shown(value: Any) -> str:
    """A value of any size or depth in a few characters."""
    try:
        text = value if isinstance(value, str) else reprlib.repr(value)
    except (ValueError, RecursionError):  # a number of many thousand digits
        text = type(value).__name__
    text = " ".join(text[: 4 * LONGEST_VALUE].split())
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"


def parse_json(data: bytes, where: str) -> Any:
    """The value of a JSON text in UTF-8. Raises UserError for what is none, or is nested too deeply."""
    try:
        return from_json(data.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {shown(str(error))}") from None


def parse_csv(data: bytes, where: str, columns: Sequence[str] = (), torn: bool = False) -> list[dict[str, str]]:
    """The rows of a CSV text with a header, by column; none for an empty text. As `text_files` reads texts.

    The separator is the one of SEPARATORS that the header has most of; where it is no comma, a comma between digits is
    a decimal one. Raises UserError for what is no such text, lacks one of `columns`, or names one twice; and for a row
    with more or fewer fields than the header, which with `torn` is left out instead (a process may have been killed
    writing it).
    """
    text = data.decode("utf-8-sig", errors="replace") if torn else decode_text(data, where)
    separator = max(SEPARATORS, key=text.lstrip("\r\n").split("\n", 1)[0].count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        header = next((row for row in reader if row), [])
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise UserError(f"{where}: not a CSV file ({error})") from None
    missing = [name for name in columns if name not in header]
    if header and missing:
        raise UserError(f"{where}: the columns {', '.join(missing)} are missing")
    if len(set(header)) < len(header):
        raise UserError(f"{where}: two columns have the same name")
    uneven = [(line, row) for line, row in rows if len(row) != len(header)]
    if uneven and not torn:
        line, row = uneven[0]
        raise UserError(f"{where}: line {line} has {len(row)} fields, the header {len(header)}")
    if separator != ",":
        rows = [(line, [with_decimal_point(field) for field in row]) for line, row in rows]
    return [dict(zip(header, row, strict=True)) for _, row in rows if len(row) == len(header)]
