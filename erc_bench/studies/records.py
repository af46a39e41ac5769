"""What a run leaves behind: versioned Parquet tables and their provenance, in one folder.

A results folder holds ``manifest.json`` (configuration, seeds, versions, git revision) and, for every
finished part of the work, one Parquet file per table under ``runs/``, ``metrics/`` and ``tokens/``.
A part appears under its final name only when it is complete (written aside, fsynced, renamed), so the
folder can be read at any moment, even after ``kill -9``.

Tables
    runs     one row per run: rewards and entropies before and after training, tokens used
    metrics  one row per run and update: rewards, losses, clip, gate, gradient and drift
    tokens   a uniform sample of tokens: both distributions of its state and what each rule did with it
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from erc_bench.core.errors import InputError
from erc_bench.core.storage import (
    atomic_write,
    exclusive,
    holds_nothing,
    read_object,
    require_writable,
    sweep,
    write_text,
)
from erc_bench.studies.digests import Key, run_digests
from erc_bench.training.native.library import variant

__all__ = [
    "KEYS",
    "READABLE",
    "SCHEMA_VERSION",
    "DamageError",
    "Results",
    "Table",
    "first_difference",
    "provenance",
]

#: The version that is written. Version 2 added ``digest`` to ``runs``.
SCHEMA_VERSION = 2
#: The versions that can be read and resumed. Runs of version 1 have no digest.
READABLE = (1, 2)
Table = Literal["runs", "metrics", "tokens"]

#: Columns that name a run in every table. ``objective`` is the arm's label, ``seed`` the index of
#: the seed: arms with the same seed share prompts, initial weights and random numbers.
KEYS = ("experiment", "environment", "objective", "seed")

#: The columns that readers need. Any further column of floats is a metric under its own name.
REQUIRED: dict[Table, tuple[str, ...]] = {
    "runs": (
        *KEYS,
        "reward/initial",  # mean episode return of the sampling policy before training
        "reward/final",  # the same after training; both over `evaluation_episodes` fresh episodes
        "reward/optimal",  # exact expected return of the best policy
        "entropy/initial",  # nats per token, mean over the evaluation's tokens
        "entropy/final",
        "tokens",  # tokens generated for training, filtered ones included
        "diverged",  # a non-finite loss or gradient was met; the run was frozen there
        # write_part adds `digest`, see erc_bench.studies.digests
    ),
    "metrics": (
        *KEYS,
        "rollout",  # index of the rollout, from 0
        "update",  # index of the update over the whole run, from 0
        "staleness",  # updates made since the rollout when this one was computed: 0, 1, ...
        "tokens",  # tokens generated so far
        "reward/mean",  # mean episode return of this rollout, before any filtering
        "grad/norm",  # l2 norm of the policy's gradient before clipping
        "diverged",
    ),
    "tokens": (
        *KEYS,
        "update",
        "staleness",
        "position",  # index in the response
        "action",
        "advantage",
        "prob/old",  # probability of the sampled action
        "prob/new",
        "log_ratio",  # log pi_new(a) - log pi_old(a)
        "entropy/old",  # nats
        "entropy/new",
        "log_entropy_ratio",  # log rho
        "kl_exact",  # KL(old || new), nats
        "tv",
        "clip_bound",  # the objective's clip determined this token's loss
        "gate_dropped",  # the objective's gates dropped this token's gradient
        "probs/old",  # list: the whole distribution (absent above 64 actions)
        "probs/new",
    ),
}


class DamageError(InputError):
    """A file of a results folder is not what was written there."""


def _git_revision() -> str | None:
    """Revision of the checkout this package lies in, with ``+dirty``; None outside a checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        quiet = subprocess.DEVNULL
        return subprocess.check_output(command, text=True, stderr=quiet, timeout=10).strip()

    try:
        # This fails if erc-bench is installed inside the checkout of another project.
        git("ls-files", "--error-unmatch", here.name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str | None:
    """Model of the processor, if the system names it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def provenance() -> dict[str, Any]:
    """Where and with what the records were made: versions, git revision, machine, start time."""
    packages = ("erc-bench", "torch", "numpy", "gymnasium", "pyarrow", "pandas", "scipy")

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "processor": _processor(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "native_engine": variant() or "not compiled",
            "cpus": os.cpu_count(),
        },
        "arguments": sys.argv[1:],
    }


@dataclass(frozen=True)
class Results:
    """A results folder.

    Attributes:
        path: the folder.
        config: the resolved configuration that its records belong to.
        provenance: see :func:`provenance`.
        schema_version: the version in its manifest.
        content: what the folder holds, if that is not whole records.
    """

    path: Path
    config: dict[str, Any]
    provenance: dict[str, Any]
    schema_version: int = SCHEMA_VERSION
    content: str | None = None

    @classmethod
    @contextlib.contextmanager
    def claim(
        cls, path: Path | str, config: Mapping[str, Any], *, resume: bool = False
    ) -> Iterator[Results]:
        """:meth:`create`, and keep other writers out of the folder for as long as the context lasts.

        Raises:
            InputError: as :meth:`create`, or another process writes there; the folder is untouched.
        """
        _require_free(Path(path), _plain(config), resume=resume)
        with exclusive(Path(path)):
            results = cls.create(path, config, resume=resume)
            sweep(results.path)
            yield results

    @classmethod
    def create(
        cls, path: Path | str, config: Mapping[str, Any], *, resume: bool = False
    ) -> Results:
        """Take a folder for new records, or with ``resume`` go on in one with the same configuration.

        Raises:
            InputError: the folder holds something else, finished records, or cannot be written to.
        """
        path, plain = Path(path), _plain(config)
        _require_free(path, plain, resume=resume)
        require_writable(path)
        if (path / "manifest.json").exists():
            results = cls.open(path)
            if results.schema_version != SCHEMA_VERSION:  # from here on this version is written
                results = replace(results, schema_version=SCHEMA_VERSION)
                results._write_manifest()
            return results
        results = cls(path, plain, provenance())
        results._write_manifest()
        return results

    def _write_manifest(self) -> None:
        manifest = {
            "kind": "erc-bench results",
            "schema_version": self.schema_version,
            "config": self.config,
            "provenance": self.provenance,
        }
        text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
        write_text(self.path / "manifest.json", text)

    @classmethod
    def open(cls, path: Path | str) -> Results:
        """Open a results folder for reading.

        Raises:
            InputError: not a folder of ours, unreadable, or of another schema version.
        """
        path = Path(path)
        manifest_path = path / "manifest.json"
        if not path.is_dir():
            raise InputError(f"results: {path} is not a folder")
        if not manifest_path.is_file():
            raise InputError(
                f"results: {path} is not a results folder of erc-bench (no manifest.json)"
            )
        try:
            manifest = read_object(manifest_path, "results")
            if manifest["kind"] != "erc-bench results":
                raise KeyError("kind")
            version, config = manifest["schema_version"], manifest["config"]
            made = manifest["provenance"]
            if not (isinstance(config, dict) and isinstance(made, dict)):
                raise TypeError("config and provenance must be objects")
        except (InputError, KeyError, TypeError) as error:
            raise InputError(
                f"results: {manifest_path} is not a manifest of erc-bench ({type(error).__name__}: {error})"
            ) from None
        if isinstance(version, bool) or not isinstance(version, int) or version not in READABLE:
            newer = isinstance(version, int) and version > SCHEMA_VERSION
            raise InputError(
                f"results: {path} has schema version {version!r}, this erc-bench reads "
                f"{' and '.join(map(str, READABLE))}{'; a newer one wrote it' if newer else ''}"
            )
        return cls(path, config, made, version, manifest.get("content"))

    def write_part(self, part: str, tables: Mapping[Table, pd.DataFrame]) -> None:
        """Store a finished part of the work; ``runs`` goes last and marks the part as done.

        Raises:
            OSError: a table could not be written, as on a full disk; the part is not done.
            InputError: the folder is gone, or another was put in its place.
        """
        if not (self.path / "manifest.json").is_file():
            raise InputError(f"results: {self.path} was removed while it was written to")
        stored: dict[Table, pa.Table] = {}
        for name in ("tokens", "metrics", "runs"):
            frame = tables[name]
            missing = [c for c in REQUIRED[name] if c not in frame and not c.startswith("probs/")]
            if missing:
                raise ValueError(f"table {name}: columns missing: {missing}")
            stored[name] = pa.Table.from_pandas(frame, preserve_index=False)
        digests = run_digests(stored, KEYS)
        of_runs = [digests[key] for key in _keys(stored["runs"])]
        stored["runs"] = stored["runs"].append_column("digest", pa.array(of_runs, pa.string()))
        for name, whole in stored.items():
            table = whole.replace_schema_metadata({"erc-bench schema": str(SCHEMA_VERSION)})
            (self.path / name).mkdir(exist_ok=True)  # the folder itself is not made again
            atomic_write(
                self.path / name / f"{part}.parquet",
                lambda stream, table=table: pq.write_table(  # type: ignore[misc]
                    table, stream, compression="zstd", write_page_checksum=True
                ),
                make_folders=False,
            )

    def done(self, part: str) -> bool:
        """Whether a part was stored whole."""
        return (self.path / "runs" / f"{part}.parquet").exists()

    def digests(self, part: str) -> dict[Key, tuple[str | None, str]]:
        """For each run of a part: the digest stored with it (None in version 1), and that of its rows.

        Raises:
            DamageError: a file is missing or cannot be read, or a table has runs that ``runs`` has not.
        """
        tables: dict[Table, pa.Table] = {}
        for name in REQUIRED:
            tables[name] = read_table(self.path / name / f"{part}.parquet")
            missing = [key for key in KEYS if key not in tables[name].column_names]
            if missing and tables[name].num_rows:
                raise DamageError(f"results: {name}/{part}.parquet has no column {missing[0]}")
        runs = tables["runs"]
        stored = [None] * runs.num_rows
        if "digest" in runs.column_names:
            stored = runs["digest"].to_pylist()
            tables["runs"] = runs.drop_columns(["digest"])
        found = run_digests(tables, KEYS)
        keys = _keys(runs)
        if set(found) != set(keys):
            raise DamageError(f"results: part {part}: its tables are not of the same runs")
        return {key: (told, found[key]) for key, told in zip(keys, stored, strict=True)}

    def read(
        self,
        table: Table,
        columns: list[str] | None = None,
        *,
        where: list[tuple[str, str, Any]] | None = None,
    ) -> pd.DataFrame:
        """Rows of every finished part, in the parts' order.

        Args:
            table: which.
            columns: those wanted, of which a part gives those that it has; None: all.
            where: conditions that all rows meet, as ``("experiment", "==", "stress")``; what they
                leave out is not held in memory.

        Raises:
            InputError: no part is finished yet, or a file is damaged.
        """
        finished = sorted(p.name for p in (self.path / "runs").glob("[!.]*.parquet"))
        if not finished:
            raise InputError(
                f"results: {self.path} has no finished part yet; finish it with --resume"
            )
        frames = []
        for name in finished:
            file = self.path / table / name
            with _readable(file):
                with pq.ParquetFile(file) as stored:
                    schema, rows = stored.schema_arrow, stored.metadata.num_rows
                if rows:
                    _require_kinds(schema, table, file, whole=self.content is None)
                found = pq.read_table(
                    file,
                    columns=columns and [c for c in columns if c in schema.names],
                    filters=where if rows else None,  # it may not fit the type of an empty column
                    page_checksum_verification=True,
                )
                frames.append(_as_numbers(found).to_pandas())
        # An empty part has columns of other types, which it would pass on to the whole table.
        frames = [frame for frame in frames if len(frame)] or frames[:1]
        return pd.concat(frames, ignore_index=True)


def _keys(table: pa.Table) -> list[Key]:
    return list(zip(*(table[key].to_pylist() for key in KEYS), strict=True))


def read_table(file: Path) -> pa.Table:
    """A whole Parquet file, as it was stored.

    Raises:
        DamageError: it cannot be read.
    """
    with _readable(file):
        return pq.ParquetFile(file, page_checksum_verification=True).read()


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Name the file in a DamageError, whatever pyarrow raises when it is damaged or no Parquet at all."""
    try:
        yield
    except InputError:
        raise
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError, MemoryError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamageError(f"results: {file} cannot be read: {line}") from None


def _require_kinds(schema: pa.Schema, table: Table, file: Path, *, whole: bool) -> None:
    """Names are texts, the seed is a whole number, everything else numbers or lists of them."""
    needed = REQUIRED[table] if whole else KEYS
    missing = [c for c in needed if c not in schema.names and not c.startswith("probs/")]
    if missing:
        raise DamageError(f"results: {file} has no column {missing[0]!r}")
    is_kind = pa.types
    for column in schema:
        name, kind = column.name, column.type
        inner = getattr(kind, "value_type", kind)
        nested = is_kind.is_nested(kind)
        number = is_kind.is_floating(inner) or is_kind.is_integer(inner)
        if name in (*KEYS[:3], "digest"):
            fits = not nested and (is_kind.is_string(inner) or is_kind.is_large_string(inner))
        elif name == "seed":
            fits = is_kind.is_integer(kind)
        elif name.startswith("probs/"):
            fits = (nested and number) or is_kind.is_null(kind)
        else:
            fits = not nested and (number or is_kind.is_boolean(kind))
        if not fits:
            raise DamageError(f"results: {file}: column {name!r} is {kind}")


def _as_numbers(table: pa.Table) -> pa.Table:
    """Make a column that has no values one of missing numbers, where pandas would make objects."""
    schema = table.schema
    for place, column in enumerate(schema):
        if pa.types.is_null(column.type) and not column.name.startswith("probs/"):
            schema = schema.set(place, column.with_type(pa.float64()))
    return table.cast(schema)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it will be read back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(config))
    return plain


def _require_free(path: Path, config: dict[str, Any], *, resume: bool) -> None:
    """Raise :meth:`Results.create`'s InputError if the folder is not free; nothing is changed there."""
    if (path / "manifest.json").exists():
        if not resume:
            raise InputError(
                f"out: {path} already holds results; add --resume to go on, or choose another folder"
            )
        differing = first_difference(Results.open(path).config, config)
        if differing:
            raise InputError(f"resume: {path} was made with another configuration: {differing}")
    elif path.is_dir() and not holds_nothing(path):
        raise InputError(
            f"out: {path} is not empty and is not a results folder of erc-bench; choose another folder"
        )


def first_difference(old: Any, new: Any, at: str = "") -> str | None:
    """Name of the first field in which two JSON-like values differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            found = first_difference(old.get(key), new.get(key), f"{at}.{key}" if at else str(key))
            if found:
                return found
        return None
    return None if old == new else f"{at} was {old!r}, now {new!r}"
