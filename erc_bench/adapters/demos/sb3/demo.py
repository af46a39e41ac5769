"""All runs, resumable, and what is made of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from erc_bench.adapters.demos.sb3.training import ARMS, METRICS, ROLLOUT, require_environment, train
from erc_bench.core.errors import InputError
from erc_bench.core.storage import atomic_write, exclusive, holds_nothing, read_object
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
    """Train both arms on every environment with seeds 0, 1, ...; draw and tabulate.

    Args:
        out: a new or empty folder, or with ``resume`` one of the same settings.
        environments: steps by Gymnasium id.
        seeds: per arm, shared by the arms.
        workers: processes.
        resume: go on with what is not finished.

    Raises:
        InputError: names what is not allowed; nothing was done.
    """
    if seeds < 2:
        raise InputError(f"seeds: {seeds} is not allowed; must be at least 2")
    if workers < 1:
        raise InputError(f"workers: {workers} is not allowed; must be at least 1")
    for name, steps in environments.items():
        if steps < ROLLOUT:
            raise InputError(f"steps: {steps} is not allowed; must be at least {ROLLOUT}")
        require_environment(name)
    with exclusive(out):
        _claim(out, {"environments": dict(environments), "arms": list(ARMS)}, resume=resume)
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
        InputError: damaged, or another program's.
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


def _claim(out: Path, settings: dict[str, object], *, resume: bool) -> None:
    path = out / "settings.json"
    if path.is_file():
        if not resume:
            raise InputError(f"out: {out} already holds a comparison; add --resume to go on")
        found = read_object(path, "resume")
        if found != settings:
            raise InputError(f"resume: {out} was made with {found}, now {settings}")
    elif out.exists() and not holds_nothing(out):
        raise InputError(f"out: {out} is not empty; choose another folder")
    else:
        text = json.dumps(settings, indent=1) + "\n"
        atomic_write(path, lambda stream: stream.write(text.encode()))


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
        calls = (delayed(_one)(w, _part(out, *w[:3])) for w in left)
        for _ in Parallel(workers, return_as="generator_unordered")(calls):
            bar.advance(task)


def _one(work: tuple[str, str, int, int], path: Path) -> None:
    train(*work, path, lambda _: None)


def _present(out: Path, runs: pd.DataFrame) -> list[Path]:
    from erc_bench.adapters.demos.sb3.figure import compared, draw  # noqa: PLC0415
    from erc_bench.presentation.reporting.files import figure_bytes  # noqa: PLC0415

    drawing, table = draw(runs), compared(runs)
    files = {
        f"{drawing.name}.{kind}": figure_bytes(drawing.figure, kind) for kind in ("png", "svg")
    }
    files["table.csv"] = table.to_csv(index=False, float_format="%.5g").encode()
    files["table.md"] = markdown(table).encode()
    for name, content in files.items():
        atomic_write(out / name, lambda stream, content=content: stream.write(content))  # type: ignore[misc]
    return [out / name for name in files]


def markdown(table: pd.DataFrame) -> str:
    """The table for people."""
    from erc_bench.adapters.demos.sb3.figure import difference_texts  # noqa: PLC0415

    lines = [
        "| environment | arm | seeds | return (95 % interval) | ERC-PPO - PPO, paired | clip binds | "
        "outside the band | dropped |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        difference = "" if pd.isna(row["difference"]) else " ".join(difference_texts(row))
        shares = (f"{100 * row[k]:.1f} %" for k in ("clip binds", "outside the band", "dropped"))
        lines.append(
            f"| {row['environment']} | {row['objective']} | {row['seeds']} | {row['return']:.3g} "
            f"({row['low']:.3g} to {row['high']:.3g}) | {difference} | {' | '.join(shares)} |"
        )
    return "\n".join(lines) + "\n"
