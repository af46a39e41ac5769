"""A run's digest: SHA-256 of its rows in a form that no file format, row group or neighbour changes.

For each table, and in it for each column by name, the run's values in the rows' order: whole numbers and
truth values as int64, other numbers as float64 (little-endian; every NaN, and what is missing, as one
NaN), texts in UTF-8 and lists after their lengths. A column without a value in these rows is left out: it
is there for other runs of the part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["Key", "run_digests"]

#: What tells a run apart.
Key = tuple[str | int, ...]
Name = TypeVar("Name", bound=str)


def run_digests(tables: Mapping[Name, pa.Table], keys: Sequence[str]) -> dict[Key, str]:
    """Digest of every run of some tables.

    Args:
        tables: by name, each with the columns ``keys``.
        keys: columns that tell the runs apart.

    >>> table = pa.table({"seed": [0, 1, 0], "x": [1.0, 2.0, None]})
    >>> {k: v[:8] for k, v in run_digests({"t": table}, ["seed"]).items()}
    {(0,): '3fe1befa', (1,): 'dc36acef'}
    """
    found: dict[Key, hashlib._Hash] = {}
    for name in sorted(tables):
        table = tables[name].combine_chunks()
        columns = {c: _Values(table[c]) for c in sorted(table.column_names)}
        for key, rows in _rows(table, keys).items():
            digest = found.setdefault(key, hashlib.sha256())
            digest.update(f"table {name} {len(rows)}\n".encode())
            for column, values in columns.items():
                content = values.bytes_of(rows)
                if content is not None:
                    digest.update(f"{column}\n{values.kind} {len(content)}\n".encode())
                    digest.update(content)
    return {key: digest.hexdigest() for key, digest in found.items()}


def _rows(table: pa.Table, keys: Sequence[str]) -> dict[Key, NDArray[np.int64]]:
    """Row numbers of each run, in order."""
    if not table.num_rows:
        return {}
    named = zip(*(table[key].to_pylist() for key in keys), strict=True)
    rows: dict[Key, list[int]] = {}
    for number, key in enumerate(named):
        rows.setdefault(key, []).append(number)
    return {key: np.asarray(numbers, dtype=np.int64) for key, numbers in rows.items()}


class _Values:
    """A column in its canonical form."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        kind = array.type
        self._array = array
        self._numbers: NDArray[np.generic] | None = None
        self._null = pc.is_null(array).to_numpy(zero_copy_only=False)
        if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
            self.kind = "whole"
            whole = pc.fill_null(pc.cast(array, pa.int64()), 0).to_numpy(zero_copy_only=False)
            self._numbers = whole.astype("<i8")
        elif pa.types.is_floating(kind):
            self.kind = "number"
            self._numbers = _floats(array)
            self._null = np.isnan(self._numbers)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            self.kind = "list"
        else:
            self.kind = "text"

    def bytes_of(self, rows: NDArray[np.int64]) -> bytes | None:
        """The column in these rows; None where it has no value there."""
        if bool(self._null[rows].all()):
            return None
        if self._numbers is not None:
            content: bytes = self._numbers[rows].tobytes()
            if self.kind == "whole" and bool(
                self._null[rows].any()
            ):  # 0 is a value, nothing is none
                content += self._null[rows].tobytes()
            return content
        some = self._array.take(pa.array(rows))
        if self.kind == "list":
            lengths = pc.fill_null(pc.list_value_length(some), -1).to_numpy(zero_copy_only=False)
            return bytes(lengths.astype("<i8").tobytes() + _floats(some.flatten()).tobytes())
        return b"".join(
            b"-\n" if text is None else f"{len(text.encode())}\n{text}".encode()
            for text in map(_text, some.to_pylist())
        )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _floats(array: pa.Array) -> NDArray[np.float64]:
    """As little-endian float64, with one NaN for every NaN and for what is missing."""
    values = pc.cast(array, pa.float64()).to_numpy(zero_copy_only=False)
    values = np.array(values, dtype="<f8")
    values[np.isnan(values)] = np.nan
    return values
