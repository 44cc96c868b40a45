"""PostgreSQL's binary wire form, built for whole columns: array parameters and row elements share the same bytes.

An element is an int32 length (-1 = NULL) and the value; an array is a header and its elements. Fixed-width columns go
through numpy at once; text and bytes element by element, repeated short strings from a cache.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.adapt import Dumper
from psycopg.pq import Format

_LENGTH = struct.Struct(">i")
_HEADER = struct.Struct(">iiIii")  # dimensions, has nulls, element oid, length, lower bound
NULL = _LENGTH.pack(-1)
BOOL_ELEMENT = {None: NULL, False: _LENGTH.pack(1) + b"\x00", True: _LENGTH.pack(1) + b"\x01"}

# PostgreSQL's element oids and the numpy form of their wire value.
UUID, INT4, INT8, FLOAT4, BOOL, DIGEST = "V16", ">i4", ">i8", ">f4", "u1", "V32"
ELEMENT_OIDS = {UUID: 2950, INT4: 23, INT8: 20, FLOAT4: 700, BOOL: 16, DIGEST: 17}
TEXT_OID, BYTEA_OID = 25, 17
# Of types that only this database knows: the server compares a sent oid with the expected one among its built-in types.
ANY_OID = 0x7FFFFFFF
CACHED_TEXTS_MAX = 65_536


class WireArray:
    """An encoded array parameter; its subclasses only say which array type it is."""

    oid: ClassVar[int]

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


class CompositeArray(WireArray):
    """An array of a composite type of this database, which the server knows by the parameter's place."""

    oid = 0


class _WireDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: WireArray) -> bytes:
        return obj.payload


def _array_type(name: str, array_oid: int) -> type[WireArray]:
    array = type(name, (WireArray,), {"oid": array_oid})
    psycopg.adapters.register_dumper(array, type(f"{name}Dumper", (_WireDumper,), {"oid": array_oid}))
    return array


_ARRAYS = {
    2950: _array_type("UuidArray", 2951),
    23: _array_type("Int4Array", 1007),
    20: _array_type("Int8Array", 1016),
    700: _array_type("Float4Array", 1021),
    16: _array_type("BoolArray", 1000),
    25: _array_type("TextArray", 1009),
    17: _array_type("ByteaArray", 1001),
}


psycopg.adapters.register_dumper(CompositeArray, type("CompositeArrayDumper", (_WireDumper,), {"oid": 0}))


def _array(oid: int, count: int, elements: bytes) -> WireArray:
    return _ARRAYS[oid](_HEADER.pack(1, 1, oid, count, 1) + elements)


@lru_cache(maxsize=256)
def _empty_row(forms: tuple[str, ...], composite_fields: int) -> NDArray[Any]:
    """One row of a block, lengths in place; as the head of a composite also the count of fields and their oids."""
    layout: list[tuple[str, str]] = [("fields", ">i4")] if composite_fields else []
    for i, form in enumerate(forms):
        layout += [(f"oid{i}", ">u4")] if composite_fields else []
        layout += [(f"length{i}", ">i4"), (f"value{i}", form)]
    row = np.zeros(1, dtype=layout)
    for i, form in enumerate(forms):
        row[f"length{i}"] = np.dtype(form).itemsize
        if composite_fields:
            row[f"oid{i}"] = ELEMENT_OIDS[form]
    if composite_fields:
        row["fields"] = composite_fields
    return row


class FixedBlock:
    """Fixed-width columns of n rows, each value behind its length, laid out row by row in the order given.

    `columns` is (name, wire form, values) with n values each; a name may repeat. With `composite_fields` a row is the
    head of a composite value of so many fields: their count, and each value's oid before its length.
    """

    def __init__(self, columns: Sequence[tuple[str, str, Any]], *, composite_fields: int = 0) -> None:
        self.count = len(columns[0][2])
        self._forms = {name: (i, form) for i, (name, form, _) in enumerate(columns)}
        empty = _empty_row(tuple([form for _, form, _ in columns]), composite_fields)
        self._block: NDArray[Any] = np.repeat(empty, self.count)
        for i, (_, _, values) in enumerate(columns):
            self._block[f"value{i}"] = values

    def array(self, name: str) -> WireArray:
        """The column as an array parameter."""
        i, form = self._forms[name]
        pair = np.empty(self.count, dtype=[("length", ">i4"), ("value", form)])
        pair["length"] = np.dtype(form).itemsize
        pair["value"] = self._block[f"value{i}"]
        return _array(ELEMENT_OIDS[form], self.count, pair.tobytes())

    def rows(self) -> list[bytes]:
        """The bytes of each row, lengths included."""
        raw, width = self._block.tobytes(), self._block.dtype.itemsize
        return [raw[i : i + width] for i in range(0, len(raw), width)]


def opaque(values: Sequence[bytes], form: str) -> NDArray[Any]:
    """n byte strings of one width (16 or 32) as a numpy column; raises ValueError when a width differs."""
    width = np.dtype(form).itemsize
    joined = b"".join(values)
    if len(joined) != width * len(values):
        raise ValueError(f"expected {len(values)} values of {width} bytes, got {len(joined)} bytes")
    return np.frombuffer(joined, dtype=form)


class _TextElements(dict[str, bytes]):
    """Elements of texts seen before: a dictionary, since a cached function costs three times as much for each value."""

    def __missing__(self, value: str) -> bytes:
        if len(self) >= CACHED_TEXTS_MAX:
            self.clear()
        raw = value.encode()
        element = self[value] = _LENGTH.pack(len(raw)) + raw
        return element


_text_elements = _TextElements()


def repeated_text(values: Iterable[str]) -> list[bytes]:
    """Elements of a text column whose values repeat (labels, ids of few entities)."""
    return list(map(_text_elements.__getitem__, values))


def distinct_text(values: Iterable[str]) -> list[bytes]:
    """Elements of a text column whose values are mostly unique."""
    return byte_elements(list(map(str.encode, values)))


def byte_elements(values: Sequence[bytes]) -> list[bytes]:
    """Elements of a bytea column: of its values, however many, few lengths differ."""
    prefixes = {length: _LENGTH.pack(length) for length in set(map(len, values))}
    if len(prefixes) == 1:
        return list(map(next(iter(prefixes.values())).__add__, values))
    return list(map(operator.add, map(prefixes.__getitem__, map(len, values)), values))


def bool_elements(values: Iterable[bool | None]) -> list[bytes]:
    """Elements of a nullable boolean column."""
    return [BOOL_ELEMENT[value] for value in values]


def array_of(elements: Sequence[bytes], oid: int) -> WireArray:
    """Ready elements as an array parameter of the given element type."""
    return _array(oid, len(elements), b"".join(elements))


def composites(heads: FixedBlock, columns: Sequence[Sequence[bytes]]) -> list[bytes]:
    """n composite values, lengths included: `heads` made with `composite_fields`, then ready elements by column."""
    field = ANY_OID.to_bytes(4)
    return byte_elements(list(map(field.join, zip(heads.rows(), *columns, strict=True))))


def composite_array(values: Sequence[bytes]) -> CompositeArray:
    """Composite values, lengths included, as an array parameter."""
    return CompositeArray(_HEADER.pack(1, 0, ANY_OID, len(values), 1) + b"".join(values))
