"""``erc-bench llm import``: logs of real training runs as a results folder with figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from erc_bench.core.errors import InputError

__all__ = ["Import"]


@dataclass(frozen=True)
class Import:
    """Turn logs of TRL, verl or TensorBoard into records, and draw the figures they allow.

    Example: erc-bench llm import dapo:0=run1/trainer_state.json erc-dapo:0=run2/ --out results/llm
    """

    logs: Positional[tuple[str, ...]]
    """Runs, each OBJECTIVE:SEED=PATH; a path is a file, or a checkpoint's or event files' folder."""
    out: Path = Path("results/llm")
    """Results folder; must be new or empty."""
    experiment: str = "llm"
    """Name of the experiment in the records."""

    def run(self) -> None:
        """Read every log, then write records and figures."""
        from erc_bench.adapters.logs import read_log, write_records  # noqa: PLC0415
        from erc_bench.api import figures  # noqa: PLC0415

        paths = parsed(self.logs)
        results = write_records(
            self.out,
            {key: read_log(path) for key, path in paths.items()},
            experiment=self.experiment,
        )
        for path in figures(results, self.out / "figures"):
            print(path)


def parsed(logs: tuple[str, ...]) -> dict[tuple[str, int], Path]:
    """``OBJECTIVE:SEED=PATH`` as keys and paths.

    Raises:
        InputError: another form, or a run given twice.

    >>> parsed(("erc-dapo:1=run2/trainer_state.json",))
    {('erc-dapo', 1): PosixPath('run2/trainer_state.json')}
    """
    found: dict[tuple[str, int], Path] = {}
    for text in logs:
        key, equals, path = text.partition("=")
        objective, colon, seed = key.rpartition(":")
        if not (equals and colon and objective and path and seed.isascii() and seed.isdigit()):
            raise InputError(
                f"logs: {text!r}, must be OBJECTIVE:SEED=PATH, as dapo:0=run1/log.jsonl"
            )
        if (objective, int(seed)) in found:
            raise InputError(f"logs: {objective}:{int(seed)} is given twice")
        found[objective, int(seed)] = Path(path)
    return found
