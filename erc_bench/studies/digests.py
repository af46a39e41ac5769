"""A run's digest: SHA-256 of its rows, independent of file format, row groups and other runs.

Tables and their columns are taken in the order of their names, and a run's values in the order of its
rows. Whole numbers and truth values count as int64, and other numbers as little-endian float64, in
which every NaN and every missing value is the same NaN. Texts are in UTF-8, and lists follow their
lengths. A column that has no value in these rows is left out, since it belongs to other runs.
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

#: The values of the key columns, which identify a run.
Key = tuple[str | int, ...]
Name = TypeVar("Name", bound=str)


def run_digests(tables: Mapping[Name, pa.Table], keys: Sequence[str]) -> dict[Key, str]:
    """Digest of every run in some tables.

    Args:
        tables: tables by name, each with the columns ``keys``.
        keys: columns that identify a run.

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
    rows: dict[Key, list[int]] = {}
    if table.num_rows:  # an empty table may lack the columns
        for number, key in enumerate(zip(*(table[k].to_pylist() for k in keys), strict=True)):
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
        """The column in these rows; None if it has no value there."""
        if bool(self._null[rows].all()):
            return None
        if self._numbers is not None:
            content: bytes = self._numbers[rows].tobytes()
            if self.kind == "whole" and self._null[rows].any():  # 0 also stands for missing values
                content += self._null[rows].tobytes()
            return content
        some = self._array.take(pa.array(rows))
        if self.kind == "list":
            lengths = pc.fill_null(pc.list_value_length(some), -1).to_numpy(zero_copy_only=False)
            return bytes(lengths.astype("<i8").tobytes() + _floats(some.flatten()).tobytes())
        return b"".join(
            b"-\n" if value is None else f"{len(str(value).encode())}\n{value}".encode()
            for value in some.to_pylist()
        )


def _floats(array: pa.Array) -> NDArray[np.float64]:
    """Little-endian float64, in which every NaN and every missing value is the same NaN."""
    values = pc.cast(array, pa.float64()).to_numpy(zero_copy_only=False)
    values = np.array(values, dtype="<f8")
    values[np.isnan(values)] = np.nan
    return values
