"""The programs `python -m paper_repro.NAME`: parse the options, run, and end with one line if that fails."""

from __future__ import annotations

import sys
from typing import Any

import tyro

from erc_bench.core.errors import InputError

__all__ = ["run_program"]


def run_program(name: str, command: Any, arguments: list[str] | None) -> None:
    """Run one of the commands of ``paper_repro.NAME``.

    Args:
        name: of the module.
        command: a dataclass of options with a method ``run``, or a union of several.
        arguments: of the command line; None: those of this process.
    """
    flat = (tyro.conf.OmitArgPrefixes,)
    chosen = tyro.cli(command, args=arguments, prog=f"python -m paper_repro.{name}", config=flat)
    try:
        chosen.run()
    except InputError as error:
        print(f"paper_repro.{name}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
