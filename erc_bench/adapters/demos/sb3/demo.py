"""All runs, which can be resumed, and the figure and table that are made of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field

from erc_bench.adapters.demos.folder import claim
from erc_bench.adapters.demos.sb3.training import ARMS, METRICS, ROLLOUT, require_environment, train
from erc_bench.analysis.tables import markdown_table
from erc_bench.core.errors import InputError
from erc_bench.core.storage import atomic_write, exclusive, read_object
from erc_bench.core.validation import Count, checked
from erc_bench.studies.records import read_table

__all__ = ["demo", "redraw"]


def demo(
    out: Path,
    environments: Mapping[str, int],
    seeds: int,
    *,
    workers: int = 1,
    resume: bool = False,
) -> list[Path]:
    """Train both arms on every environment with seeds 0, 1, ..., then draw and tabulate.

    Args:
        out: a new or empty folder, or with ``resume`` one of the same settings.
        environments: training steps by Gymnasium id.
        seeds: number of seeds, which the arms share.
        workers: number of processes.
        resume: go on with the runs that are not finished.

    Raises:
        InputError: names what is not allowed; nothing was done.
    """
    checked(Annotated[int, Field(ge=2)], seeds, at="seeds")
    checked(Count, workers, at="workers")
    for name, steps in environments.items():
        checked(Annotated[int, Field(ge=ROLLOUT)], steps, at="steps")
        require_environment(name)
    with exclusive(out):
        claim(out, {"environments": dict(environments), "arms": list(ARMS)}, resume=resume)
        _train(out, environments, seeds, workers)
        parts = [
            _read(_part(out, name, arm, seed))
            for name in environments
            for arm in ARMS
            for seed in range(seeds)
        ]
        return _present(out, pd.concat(parts, ignore_index=True))


def redraw(out: Path) -> list[Path]:
    """Draw and tabulate the seeds that both arms have finished.

    Raises:
        InputError: no demo's folder, or nothing finished in it.
    """
    parts = sorted((out / "runs").glob("[!.]*.parquet"))
    if not (out / "settings.json").is_file() or not parts:
        raise InputError(f"out: {out} holds no finished run of an SB3 demo")
    runs = pd.concat([_read(path) for path in parts], ignore_index=True)
    arms = runs.groupby(["environment", "seed"])["objective"].transform("nunique")
    paired = runs[arms == len(ARMS)]
    order = list(read_object(out / "settings.json", "out").get("environments") or ())
    foreign = sorted({*paired["environment"]} - {*order})
    if foreign:
        raise InputError(
            f"out: {out}/settings.json does not name {foreign[0]}, of which runs are there"
        )
    paired = paired.sort_values("environment", key=lambda c: c.map(order.index), kind="stable")
    if paired.empty:
        raise InputError(f"out: {out} has no seed that both arms have finished")
    return _present(out, paired)


def _read(path: Path) -> pd.DataFrame:
    """A finished run's rows.

    Raises:
        InputError: the file is damaged, or no run of this demo.
    """
    frame: pd.DataFrame = read_table(path).to_pandas()
    kinds = {name: frame[name].dtype.kind for name in frame}
    texts, numbers = ("environment", "objective"), ("seed", "steps", "return", "final", *METRICS)
    missing = [name for name in (*texts, *numbers) if name not in kinds]
    wrong = [name for name in numbers if kinds.get(name) not in ("i", "f")]
    if missing or wrong:
        raise InputError(f"out: {path} is no run of an SB3 demo (at {(missing or wrong)[0]})")
    if not frame["objective"].isin([*ARMS]).all():
        raise InputError(f"out: {path} is of another arm than {', '.join(ARMS)}")
    return frame


def _part(out: Path, environment: str, arm: str, seed: int) -> Path:
    return out / "runs" / f"{environment.replace('/', '-')}-{arm}-{seed}.parquet"


def _train(out: Path, environments: Mapping[str, int], seeds: int, workers: int) -> None:
    from joblib import Parallel, delayed  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress, TimeRemainingColumn  # noqa: PLC0415

    work = [
        (name, arm, seed, steps)
        for name, steps in environments.items()
        for seed in range(seeds)
        for arm in ARMS
    ]
    left = [w for w in work if not _part(out, *w[:3]).is_file()]
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("runs", total=len(work), completed=len(work) - len(left))
        calls = (delayed(train)(*w, _part(out, *w[:3])) for w in left)
        for _ in Parallel(workers, return_as="generator_unordered")(calls):
            bar.advance(task)


def _present(out: Path, runs: pd.DataFrame) -> list[Path]:
    from erc_bench.adapters.demos.sb3.figure import compared, draw  # noqa: PLC0415
    from erc_bench.presentation.reporting.files import figure_bytes, settle  # noqa: PLC0415

    drawing, table = draw(runs), compared(runs)
    settle(drawing.figure)
    files = {
        f"{drawing.name}.{kind}": figure_bytes(drawing.figure, kind) for kind in ("png", "svg")
    }
    files["table.csv"] = table.to_csv(index=False, float_format="%.5g").encode()
    files["table.md"] = markdown(table).encode()
    for name, content in files.items():
        atomic_write(out / name, lambda stream, content=content: stream.write(content))  # type: ignore[misc]
    return [out / name for name in files]


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown."""
    from erc_bench.adapters.demos.sb3.figure import difference_text  # noqa: PLC0415

    head = ("environment", "arm", "seeds", "return (95 % interval)", "ERC-PPO - PPO, paired")
    shares = ("clip binds", "outside the band", "dropped")
    rows = []
    for row in table.to_dict("records"):
        known = f"{row['return']:.3g} ({row['low']:.3g} to {row['high']:.3g})"
        difference = "" if pd.isna(row["difference"]) else difference_text(row)
        told = (row["environment"], row["objective"], row["seeds"], known, difference)
        rows.append((*told, *(f"{100 * row[share]:.1f} %" for share in shares)))
    return markdown_table((*head, *shares), rows) + "\n"
