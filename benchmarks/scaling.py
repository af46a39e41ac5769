"""How this project's cost and memory grow with runs, vocabulary, length and staleness.

``python -m benchmarks.scaling`` measures every point in a process of its own, on one thread, the
points of an axis in turns, and writes ``results/scaling.json``, a table and a figure. The cost of a
point is ``a + b x^p``: the floor ``a`` is what the program pays whatever the size, ``p`` the exponent
above it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine
from benchmarks.run import RESULTS

__all__ = ["AXES", "Fit", "Point", "fit", "measure", "table"]

#: Fewest seconds and rollouts of a measurement, after one that is not counted.
SECONDS, ROLLOUTS = 1.0, 3


@dataclass(frozen=True)
class Point:
    """One configuration; ``x`` is its place on its axis."""

    axis: str
    x: int
    runs: int = 8
    prompts: int = 32
    group: int = 8
    minibatches: int = 8
    epochs: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    hidden: int = 176
    whole: bool = True


def _powers(low: int, high: int) -> list[int]:
    return [2**i for i in range(low, high + 1)]


def _staleness(updates: int) -> Point:
    minibatches = min(updates, 32)
    return Point(
        "staleness", updates, runs=4, minibatches=minibatches, epochs=updates // minibatches
    )


SMALL = {"runs": 2, "prompts": 4, "group": 8, "minibatches": 4}
AXES: dict[str, list[Point]] = {
    # all runs in one population, and in parts of the size that the project's plans choose
    "runs": [Point("runs", n, runs=n) for n in _powers(0, 9)],
    "runs in parts": [Point("runs in parts", n, runs=n, whole=False) for n in _powers(0, 9)],
    "vocabulary": [
        Point("vocabulary", n, **SMALL, options={"vocab_size": n, "num_prompts": 4})
        for n in _powers(3, 15)
    ],
    "length": [
        Point("length", n, **SMALL, options={"length": n, "num_forks": 1}) for n in _powers(2, 9)
    ],
    # updates per rollout: first by smaller minibatches, from 32 on by more epochs
    "staleness": [_staleness(n) for n in _powers(0, 8)],
}


def _reset_peak() -> None:
    """Reset the largest memory that the process is known to have used."""
    Path("/proc/self/clear_refs").write_text("5")


def _memory(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise OSError(f"{key} is not in /proc/self/status")


def measure(point: Point) -> dict[str, float]:
    """Seconds of processor time per rollout, and peak memory, of one point in this process."""
    import torch  # noqa: PLC0415

    from erc_bench.objectives import Objective, PPOClip  # noqa: PLC0415
    from erc_bench.studies import plan  # noqa: PLC0415
    from erc_bench.studies.planning import training_environment  # noqa: PLC0415
    from erc_bench.training import Arm, TrainConfig, Trainer  # noqa: PLC0415
    from erc_bench.training.memory import keep_freed_memory  # noqa: PLC0415

    keep_freed_memory()  # as `erc-bench run` does
    torch.set_num_threads(1)
    environment = training_environment("erc/TokenForks-v0", point.options)
    config = TrainConfig(
        rollouts=10_000,
        prompts=point.prompts,
        group_size=point.group,
        minibatches=point.minibatches,
        epochs=point.epochs,
        hidden=point.hidden,
        warm_start_steps=0,
        evaluation_episodes=1,
        token_samples=0,
    )
    sizes = [point.runs]
    if not point.whole:
        settings = {k: v for k, v in config.flat().items() if k != "rollouts"}
        planned = plan(
            [], environment="TokenForks", objectives=["gppo"], seeds=point.runs, settings=settings
        )
        sizes = [len(part.runs) for part in planned.experiments[0].parts]
    _reset_peak()
    before = _memory("VmRSS")
    per_rollout = 0.0
    for size in sorted(set(sizes)):
        arm = Arm("loss", Objective(PPOClip(0.2, 0.28)), "group-zscore", range(size))
        dynamics = environment.get_wrapper_attr("dynamics")
        trainer = Trainer(config, dynamics, environment.observation_space, [arm], seed=0)
        per_rollout += sizes.count(size) * _seconds_per_rollout(trainer)
    return {
        "seconds": per_rollout,
        "parts": len(sizes),
        "peak_mib": _memory("VmHWM") - before,
        "tokens": point.runs * point.prompts * point.group * dynamics.horizon,
        "parameters": trainer.setup.policy.parameters_per_run,
    }


class _Enough(Exception):  # noqa: N818
    """The measurement is long enough."""


def _seconds_per_rollout(trainer: Any) -> float:
    marks: list[float] = []

    def tick(_: int) -> None:
        marks.append(time.process_time())
        if len(marks) > ROLLOUTS + 1 and marks[-1] - marks[1] > SECONDS:
            raise _Enough

    with contextlib.suppress(_Enough):
        trainer.run(on_rollout=tick)
    return float(np.median(np.diff(marks[1:])))


@dataclass(frozen=True)
class Fit:
    """``cost = floor + scale * x ** exponent``."""

    floor: float
    scale: float
    exponent: float

    def __call__(self, x: Any) -> Any:
        """The cost at ``x``."""
        return self.floor + self.scale * np.asarray(x, dtype=float) ** self.exponent


def fit(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Least squares of the logarithms, so that every point counts by its relative error.

    >>> found = fit([1, 2, 4, 8, 16, 32, 64], [5 + 0.5 * n for n in (1, 2, 4, 8, 16, 32, 64)])
    >>> round(found.floor, 3), round(found.exponent, 3)
    (5.0, 1.0)
    """
    from scipy.optimize import least_squares  # noqa: PLC0415

    xs, logs = np.asarray(x, dtype=float), np.log(np.asarray(y, dtype=float))

    def residual(p: Any) -> Any:
        return np.log(np.exp(p[0]) + np.exp(p[1]) * xs ** p[2]) - logs

    starts = [
        (logs.min() - shift, logs.max() - slope * np.log(xs.max()), slope)
        for shift in (0.1, 1.0, 5.0)
        for slope in (0.5, 1.0)
    ]
    best = min((least_squares(residual, s) for s in starts), key=lambda found: found.cost)
    return Fit(float(np.exp(best.x[0])), float(np.exp(best.x[1])), float(best.x[2]))


def table(axes: dict[str, Any]) -> str:
    """Fits in Markdown."""
    lines = [
        "| axis | range | floor, ms per rollout | exponent above it | cost per token: most "
        "| and least, us | peak memory per run at the largest, MiB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, axis in axes.items():
        points = axis["points"]
        cost = [p["seconds"] / p["tokens"] * 1e6 for p in points]
        last = points[-1]
        lines.append(
            f"| {name} | {points[0]['x']:,} to {last['x']:,} | {1e3 * axis['fit']['floor']:.1f} "
            f"| {axis['fit']['exponent']:.2f} | {max(cost):.2f} | {min(cost):.2f} "
            f"| {last['peak_mib'] / last['runs']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "axes",
        nargs="*",
        default=list(AXES),
        metavar="AXIS",
        help=f"of {', '.join(AXES)}; default: all",
    )
    parser.add_argument("--rounds", type=int, default=5, help="repeats of every point")
    parser.add_argument("--largest", type=int, default=2**30, help="leave larger points out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.point:
        print(json.dumps(measure(Point(**json.loads(given.point)))))
        return
    for name in given.axes:
        if name not in AXES:
            parser.error(f"axis {name!r} is unknown; known: {', '.join(AXES)}")
    console = Console(stderr=True)
    chosen = [p for name in given.axes for p in AXES[name] if p.x <= given.largest]
    answers: list[list[dict[str, float]]] = [[] for _ in chosen]
    with Progress(
        TextColumn("[bold]scaling"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
    ) as progress:
        task = progress.add_task("", total=given.rounds * len(chosen))
        for _ in range(given.rounds):
            for point, answer in zip(chosen, answers, strict=True):
                progress.update(task, description=f"{point.axis} {point.x:,}")
                answer.append(_apart(point))
                progress.advance(task)
    axes: dict[str, Any] = {}
    for name in given.axes:
        rows = [
            {
                **asdict(point),
                # Other programs can only add to processor time, so the smallest one is the best estimate.
                **{k: min(a[k] for a in answer) for k in answer[0]},
                "rounds": [a["seconds"] for a in answer],
            }
            for point, answer in zip(chosen, answers, strict=True)
            if point.axis == name
        ]
        fitted = fit([r["x"] for r in rows], [r["seconds"] for r in rows])
        axes[name] = {"points": rows, "fit": asdict(fitted)}
    record = {"machine": machine.described(), "rounds": given.rounds, "axes": axes}
    save(record, given.out)
    console.print(table(axes))


def _apart(point: Point) -> dict[str, float]:
    ended = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "benchmarks.scaling",
            "--point",
            json.dumps(asdict(point)),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    if ended.returncode:
        raise RuntimeError(f"{point}: {ended.stderr[-2000:]}")
    answer: dict[str, float] = json.loads(ended.stdout.strip().splitlines()[-1])
    return answer


def save(record: dict[str, Any], folder: Path) -> None:
    """Write ``scaling.json``, ``scaling.md`` and the figure."""
    from benchmarks.figures import scaling_figure  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scaling.json").write_text(json.dumps(record, indent=1) + "\n")
    sizes = (
        f"Processor time, one thread, least of {record['rounds']} rounds. "
        "Cost: a + b x^p, least squares of logarithms. "
        f"{machine.sentence(record['machine'])}."
    )
    (folder / "scaling.md").write_text(f"{table(record['axes'])}\n\n{sizes}\n")
    scaling_figure(record, folder / "scaling")


if __name__ == "__main__":
    main()
