"""PostgreSQL's binary wire form, built for whole columns: array parameters and row elements share the same bytes.

An element is an int32 length (-1 = NULL) and the value; an array is a header and its elements. Fixed-width columns go
through numpy at once; text and bytes element by element, repeated short strings from a cache.
"""

from __future__ import annotations

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


class WireArray:
    """An encoded array parameter; its subclasses only say which array type it is."""

    oid: ClassVar[int]

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


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


def _array(oid: int, count: int, elements: bytes) -> WireArray:
    return _ARRAYS[oid](_HEADER.pack(1, 1, oid, count, 1) + elements)


class FixedBlock:
    """Fixed-width columns of n rows, each value behind its length, laid out row by row in the order given.

    `columns` is (name, wire form, values) with n values each; a name may repeat.
    """

    def __init__(self, columns: Sequence[tuple[str, str, Any]]) -> None:
        fields: list[tuple[str, str]] = []
        for i, (_, form, _) in enumerate(columns):
            fields += [(f"length{i}", ">i4"), (f"value{i}", form)]
        self.count = len(columns[0][2])
        self._forms = {name: (i, form) for i, (name, form, _) in enumerate(columns)}
        self._block: NDArray[Any] = np.empty(self.count, dtype=fields)
        for i, (_, form, values) in enumerate(columns):
            self._block[f"length{i}"] = np.dtype(form).itemsize
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


@lru_cache(maxsize=65536)
def _short_text_element(value: str) -> bytes:
    raw = value.encode()
    return _LENGTH.pack(len(raw)) + raw


def repeated_text(values: Iterable[str]) -> list[bytes]:
    """Elements of a text column whose values repeat (labels, ids of few entities)."""
    return [_short_text_element(value) for value in values]


def distinct_text(values: Iterable[str]) -> list[bytes]:
    """Elements of a text column whose values are mostly unique."""
    pack = _LENGTH.pack
    return [pack(len(raw)) + raw for raw in [value.encode() for value in values]]


def byte_elements(values: Iterable[bytes]) -> list[bytes]:
    """Elements of a bytea column."""
    pack = _LENGTH.pack
    return [pack(len(value)) + value for value in values]


def bool_elements(values: Iterable[bool | None]) -> list[bytes]:
    """Elements of a nullable boolean column."""
    return [BOOL_ELEMENT[value] for value in values]


def array_of(elements: Sequence[bytes], oid: int) -> WireArray:
    """Ready elements as an array parameter of the given element type."""
    return _array(oid, len(elements), b"".join(elements))
