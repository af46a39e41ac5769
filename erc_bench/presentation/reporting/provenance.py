"""Where the records came from, and the commands that make them and the report again."""

from __future__ import annotations

import shlex
from typing import Any

from erc_bench.studies.records import Results

__all__ = ["commands", "provenance"]

#: Commands of erc-bench that write records: other arguments belong to a program that called it.
WRITERS = ("run", "llm")


def commands(results: Results) -> list[tuple[str, str]]:
    """What a command line does, and the command line."""
    lines = [("this page from the records", ["erc-bench", "report", str(results.path)])]
    if arguments := _written_by(results):
        lines.insert(0, ("the records", ["erc-bench", *arguments]))
    return [(what, shlex.join(line)) for what, line in lines]


def _written_by(results: Results) -> list[str]:
    """The arguments of the command of erc-bench that made the records; none for another program."""
    arguments = [str(a) for a in results.provenance.get("arguments") or []]
    return arguments if arguments and arguments[0] in WRITERS else []


def provenance(results: Results) -> list[tuple[str, str]]:
    """Names and values, without those that are unknown."""
    made: dict[str, Any] = results.provenance
    packages = made.get("packages")
    machine = made.get("machine")
    seeds = results.read("runs", columns=["seed"])["seed"]
    rows = [
        ("started", made.get("created")),
        ("git revision", made.get("git_revision") or "not a checkout"),
        ("python", made.get("python")),
        (
            "packages",
            ", ".join(f"{k} {v}" for k, v in packages.items() if v)
            if isinstance(packages, dict)
            else None,
        ),
        (
            "machine",
            ", ".join(f"{k} {v}" for k, v in machine.items())
            if isinstance(machine, dict)
            else None,
        ),
        ("seed", results.config.get("seed")),
        ("seeds", f"{seeds.nunique()} ({seeds.min()} to {seeds.max()})"),
    ]
    if not _written_by(results):
        rows.append(("arguments", shlex.join(map(str, made.get("arguments") or []))))
    return [(key, str(value)) for key, value in rows if value not in (None, "")]
