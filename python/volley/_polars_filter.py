"""Conditions of Polars as SQL, for the option ``where`` of a read: those that select exactly the rows that Polars would select.

What is not certain to mean the same is left to Polars: casts, calculations, comparisons with floating-point zero (Polars takes both
zeros for one, a filter does not), dictionaries, decimals, nested types.
"""

from __future__ import annotations

import datetime
import io
import json
import math
from typing import Any, Iterator, Sequence

#: Bytes of all conditions of a read; a filter may have 65,536.
_MAX_BYTES = 60_000
#: Levels of one condition; a filter may have 200.
_MAX_DEPTH = 50
#: Values of one list.
_MAX_VALUES = 1_000

_COMPARISONS = {"Eq": "=", "NotEq": "<>", "Lt": "<", "LtEq": "<=", "Gt": ">", "GtEq": ">="}
_MIRRORED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_AND, _OR = ("And", "LogicalAnd"), ("Or", "LogicalOr")
_BOUNDS = {"Both": (">=", "<="), "Left": (">=", "<"), "Right": (">", "<="), "None": (">", "<")}
_INTEGERS = {f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
_FLOATS = ("Float32", "Float64")
_TEXTS = ("Utf8", "LargeUtf8", "Utf8View")
#: Units of times as Arrow writes them: as Polars does, ticks of a second, and digits of its fraction. Polars has no seconds.
_UNITS = {"ms": ("ms", 10**3, 3), "µs": ("us", 10**6, 6), "ns": ("ns", 10**9, 9)}


class _Untranslatable(Exception):
    """A condition that Polars has to apply."""


def where_of(predicate: Any, fields: Sequence[tuple[str, str, bool]]) -> tuple[str | None, Any | None]:
    """The condition for the cluster, and the expression that Polars has to apply to its rows; None is no condition.

    ``fields``: names, types and nullability of the columns that conditions may have, as a ``Schema`` has them.
    """
    kinds = {name: kind for name, kind, _ in fields}
    try:
        tree = json.loads(predicate.meta.serialize(format="json"))
        # Bounds that the optimizer adds while a query runs: they only save work, and are no expression.
        parts = list(_conjuncts(tree))
        kept = [part for part in parts if not _is_dynamic(part)]
    except Exception:  # The form of serialized expressions is not a promise of Polars.
        return None, predicate
    conditions: list[str] = []
    left: list[Any] = []
    size = 0
    for part in kept:
        try:
            condition = _sql(part, kinds, 0)
        except Exception:  # The same; a node that is not known is left to Polars.
            left.append(part)
            continue
        size += len(condition.encode()) + len(" AND ")
        if size > _MAX_BYTES:
            left.append(part)
        else:
            conditions.append(condition)
    where = " AND ".join(conditions) or None
    if not left:
        return where, None
    return where, predicate if len(kept) == len(parts) else _rebuilt(left)


def _conjuncts(tree: Any) -> Iterator[Any]:
    """What AND joins, in its order. Chains may be long, so without recursion."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        joined = node.get("BinaryExpr") if isinstance(node, dict) else None
        if joined and joined["op"] in _AND:
            waiting += [joined["right"], joined["left"]]
        else:
            yield node


def _is_dynamic(node: Any) -> bool:
    shown = node.get("Display") if isinstance(node, dict) else None
    return isinstance(shown, dict) and str(shown.get("fmt_str", "")).startswith("dynamic_pred")


def _expression(tree: Any) -> Any:
    import polars as pl

    return pl.Expr.deserialize(io.BytesIO(json.dumps(tree).encode()), format="json")


def _rebuilt(parts: list[Any]) -> Any:
    expression = _expression(parts[0])
    for part in parts[1:]:
        expression = expression & _expression(part)
    return expression


def quoted(name: str) -> str:
    """A name of a column for SQL."""
    if "\0" in name:
        raise _Untranslatable
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _sql(node: dict[str, Any], kinds: dict[str, str], depth: int) -> str:
    """A condition of SQL that is true, false and null for the same rows."""
    if depth > _MAX_DEPTH:
        raise _Untranslatable
    [(kind, body)] = node.items()
    if kind == "Column" and kinds[body] == "Boolean":
        return quoted(body)
    if kind == "BinaryExpr":
        left, op, right = body["left"], body["op"], body["right"]
        if op in _AND or op in _OR:
            word = "AND" if op in _AND else "OR"
            return f"({_sql(left, kinds, depth + 1)} {word} {_sql(right, kinds, depth + 1)})"
        sign = _COMPARISONS[op]
        if "Column" in left:
            return _comparison(left["Column"], sign, right, kinds)
        return _comparison(right["Column"], _MIRRORED[sign], left, kinds)
    if kind == "Function":
        return _function(body["function"]["Boolean"], body["input"], kinds, depth)
    raise _Untranslatable


def _function(function: Any, inputs: list[Any], kinds: dict[str, str], depth: int) -> str:
    if function == "Not":
        return f"(NOT {_sql(inputs[0], kinds, depth + 1)})"
    column = inputs[0]["Column"]
    kind = kinds[column]
    if function in ("IsNull", "IsNotNull"):
        return f"({quoted(column)} {'IS NULL' if function == 'IsNull' else 'IS NOT NULL'})"
    [(name, options)] = function.items()
    if name == "IsBetween":
        low, high = _BOUNDS[options["closed"]]
        first = _comparison(column, low, inputs[1], kinds)
        return f"({first} AND {_comparison(column, high, inputs[2], kinds)})"
    if name == "IsIn" and not options["nulls_equal"]:
        values = _literal(inputs[1])
        if values.dtype.is_nested():
            values = values.explode()
        if not 0 < len(values) <= _MAX_VALUES:
            raise _Untranslatable
        texts = [_text(kind, values.slice(at, 1)) for at in range(len(values))]
        return f"({quoted(column)} IN ({', '.join(texts)}))"
    raise _Untranslatable


def _comparison(column: str, sign: str, literal: dict[str, Any], kinds: dict[str, str]) -> str:
    kind = kinds[column]
    if kind == "Boolean" and sign not in ("=", "<>"):
        raise _Untranslatable
    condition = f"({quoted(column)} {sign} {_text(kind, _literal(literal))})"
    if kind not in _FLOATS or sign in ("=", "<>"):
        return condition
    # To Polars each NaN is greater than all numbers. To SQL one with a sign, as 0.0 / 0.0 gives it on many machines, is less.
    is_nan = f"isnan({quoted(column)})"
    return f"({condition} OR {is_nan})" if sign in (">", ">=") else f"({condition} AND (NOT {is_nan}))"


def _literal(node: dict[str, Any]) -> Any:
    """The values of a literal, as a series."""
    import polars as pl

    inner = node
    while "Cast" in inner:
        inner = inner["Cast"]["expr"]
    if set(inner) != {"Literal"}:
        raise _Untranslatable
    return pl.select(_expression(node)).to_series()


def _text(kind: str, values: Any) -> str:
    """A value for a comparison with a column of this type."""
    import polars as pl

    [value], dtype = values.to_list(), values.dtype
    if value is None:
        raise _Untranslatable
    if kind in _INTEGERS and dtype.is_integer():
        return str(value)
    if kind in _FLOATS and str(dtype) == kind and value != 0 and math.isfinite(value):
        return repr(value)
    if kind == "Boolean" and dtype == pl.Boolean:
        return str(value).lower()
    if kind in _TEXTS and dtype == pl.String and "\0" not in value:
        doubled = value.replace("'", "''")
        return f"'{doubled}'"
    if kind == "Date32" and dtype == pl.Date:
        return f"DATE '{value.isoformat()}'"
    if kind.startswith("Timestamp(") and isinstance(dtype, pl.Datetime):
        unit, ticks, digits = _UNITS[kind.removeprefix("Timestamp(").rstrip(")").split(",")[0]]
        has_zone = "," in kind
        if dtype.time_unit == unit and (dtype.time_zone is not None) == has_zone:
            # A text is compared as the type of the column, so that no digit is lost.
            seconds, fraction = divmod(values.to_physical().to_list()[0], ticks)
            moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
            return f"'{moment.isoformat()}.{fraction:0{digits}d}{'Z' if has_zone else ''}'"
    raise _Untranslatable
