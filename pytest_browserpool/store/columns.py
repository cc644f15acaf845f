"""Records as columns, the shape that DuckDB inserts fastest, and as JSON for the spool. Pure."""

from __future__ import annotations

import dataclasses
import functools
import numbers
import operator
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.records import KEYS, TABLES
from pytest_browserpool.values import Plain

_TABLE_OF: dict[type[Plain], str] = {cls: name for name, cls in TABLES.items()}

SQL_TYPES: Mapping[type, str] = {str: "VARCHAR", float: "DOUBLE", int: "BIGINT", bool: "BOOLEAN"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its name, its Python type, and whether it may be NULL."""

    name: str
    type: type
    optional: bool


@functools.cache
def columns_of(table: str) -> tuple[Column, ...]:
    """The columns of ``table`` in the order of the record's fields.

    Raises:
        HistoryError: a field has a type that the history has no column for.
    """
    cls = TABLES[table]
    hints = typing.get_type_hints(cls)
    return tuple(_column(cls, f.name, hints[f.name]) for f in dataclasses.fields(cls))  # type: ignore[arg-type]


def _column(cls: type, name: str, hint: Any) -> Column:
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        optional, hint = True, options[0]
    if hint not in SQL_TYPES:
        raise HistoryError(
            f"field {name!r} has type {hint!r}",
            where=cls.__name__,
            remedy=f"use one of {', '.join(t.__name__ for t in SQL_TYPES)}",
        )
    return Column(name=name, type=hint, optional=optional)


def by_table(rows: Iterable[Plain]) -> dict[str, list[Plain]]:
    """``rows`` by table; of several with one key only the last is kept, in the place of the last."""
    grouped: dict[str, list[Plain]] = {}
    for row in rows:
        grouped.setdefault(_TABLE_OF[type(row)], []).append(row)
    return {table: _last_of_each(table, group) for table, group in grouped.items()}


def _last_of_each(table: str, rows: list[Plain]) -> list[Plain]:
    key = KEYS[table]
    if not key:
        return rows
    latest: dict[tuple[Any, ...], Plain] = {}
    for row in rows:
        identity = tuple(getattr(row, name) for name in key)
        latest.pop(identity, None)
        latest[identity] = row
    return list(latest.values())


def arrays(table: str, rows: Sequence[Plain]) -> dict[str, Any]:
    """One numpy array for each column: object for text, float64, int64, bool; masked where a value is None.

    Text loses NUL characters and lone surrogates, which DuckDB cannot hold: they become U+FFFD.
    """
    import numpy as np

    out: dict[str, Any] = {}
    dtypes: dict[type, Any] = {float: np.float64, int: np.int64, bool: np.bool_}
    described = columns_of(table)
    # one call for all fields of a row, and one check for all texts of a column: this is where inserting
    # spends its time
    fields = operator.attrgetter(*(column.name for column in described))
    for column, values in zip(described, zip(*map(fields, rows), strict=True), strict=True):
        if column.type is str:
            out[column.name] = np.array(_texts(values), dtype=object)
        elif column.optional:
            mask = [v is None for v in values]
            filled: Any = np.array([0 if v is None else v for v in values], dtype=dtypes[column.type])
            out[column.name] = np.ma.masked_array(filled, mask)
        else:
            out[column.name] = np.array(values, dtype=dtypes[column.type])
    return out


def lists(table: str, rows: Sequence[Plain]) -> dict[str, list[Any]]:
    """One list for each column, None where a value is None; text as ``arrays`` has it."""
    out: dict[str, list[Any]] = {}
    described = columns_of(table)
    fields = operator.attrgetter(*(column.name for column in described))
    for column, values in zip(described, zip(*map(fields, rows), strict=True), strict=True):
        out[column.name] = list(_texts(values) if column.type is str else values)
    return out


def _texts(values: Sequence[str | None]) -> Sequence[str | None]:
    together = "".join(v for v in values if v is not None)
    if together.isascii() and "\0" not in together:
        return values
    return [None if v is None else _text(v) for v in values]


def _text(value: str) -> str:
    return value.replace("\0", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def to_json(row: Plain) -> dict[str, Any]:
    """``{"table": name, "row": {...}}``; ``from_json`` turns it back."""
    return {"table": _TABLE_OF[type(row)], "row": row.to_plain()}


def from_json(line: Mapping[str, Any]) -> Plain:
    """The record that ``to_json`` made ``line`` from.

    Raises:
        KeyError, TypeError: the line is not one of ours.
    """
    known = {column.name for column in columns_of(line["table"])}
    return TABLES[line["table"]](**{name: value for name, value in line["row"].items() if name in known})


def defect_of(row: Plain) -> str | None:
    """Why ``row`` cannot be stored, in words; None if it can."""
    table = _TABLE_OF.get(type(row))
    if table is None:
        return f"{type(row).__name__} is no record of the history"
    for column in columns_of(table):
        value = getattr(row, column.name)
        if value is None and column.optional:
            continue
        if not isinstance(value, _ACCEPTED[column.type]) or not _fits(column, value):
            return f"{table}.{column.name} is {value!r}, not {column.type.__name__}"
    return None


def _fits(column: Column, value: Any) -> bool:
    return column.type is not int or -(2**63) <= value < 2**63


_ACCEPTED: Mapping[type, tuple[type, ...]] = {
    str: (str,),
    float: (numbers.Real,),
    int: (numbers.Integral,),
    bool: (bool,),
}
