"""Every contender does the same work, in turns; medians and ratios go to JSON, a table and a figure.

``python -m benchmarks.run`` measures every suite; ``--quick`` takes two short rounds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine, roofline
from benchmarks.workload import workload

__all__ = ["CONTENDERS", "SUITES", "Suite", "interleave", "summarise", "table"]

#: Contenders and how they are called in tables; the first is the one that ratios are of.
CONTENDERS = {
    "ours": "erc-bench (exact drift measured)",
    "ours_no_drift": "erc-bench without drift measures",
    "ours_unmerged": "erc-bench, equal states not merged",
    "ours_torch": "erc-bench, torch's engine",
    "jax": "JAX jit + vmap",
    "plain_torch": "plain PyTorch, seed after seed",
    "sb3": "stable-baselines3, native VecEnv",
    "sb3_dummy": "stable-baselines3, make_vec_env",
    "trl": "TRL GRPOTrainer",
}
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Suite:
    """One workload, and who does it."""

    workload: str
    rollouts: int
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    seeds: int = 16


OURS = ("ours", "ours_no_drift", "ours_unmerged", "ours_torch")
SUITES = {
    "token": Suite("token", rollouts=20),
    # stable-baselines3 as documented, and TRL, take minutes a round; the token task has them
    "bandit": Suite("bandit", 50, (*OURS, "jax", "plain_torch", "sb3")),
    "one_seed": Suite("token", 40, ("ours", "ours_torch", "jax", "plain_torch"), seeds=1),
    "many_seeds": Suite("token", 10, ("ours", "ours_unmerged", "jax"), seeds=64),
    # As long as the quick tier, so that the cost of compiling is seen in proportion.
    "quick_tier": Suite("token", 60, ("ours", "ours_torch", "jax")),
}


def measure(contender: str, suite: Suite) -> dict[str, Any]:
    """One contender once, in processes of its own.

    Raises:
        RuntimeError: it failed, or did not do the whole workload.
    """
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        f"benchmarks.contenders.{contender}",
        "--workload",
        suite.workload,
        "--rollouts",
        str(suite.rollouts),
        "--seeds",
        str(suite.seeds),
    ]
    load = os.getloadavg()[0]
    start = time.perf_counter()
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1]
    )
    wall = time.perf_counter() - start
    if ended.returncode:
        raise RuntimeError(f"{contender}: {ended.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return {**result, "contender": contender, "process_seconds": wall, "load_before": load}


def interleave(
    suite: Suite, rounds: int, on_done: Callable[[dict[str, Any]], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Orders A B C, B C A, ...: in every round each contender runs once, each time in another place."""
    done = []
    names = list(suite.contenders)
    for number in range(rounds):
        for contender in names[number % len(names) :] + names[: number % len(names)]:
            result = {**measure(contender, suite), "round": number}
            done.append(result)
            on_done(result)
    return done


def _rates(result: dict[str, Any]) -> dict[str, float]:
    """Figures of merit of one measurement, all per second or in seconds or MiB.

    - ``throughput``: tokens generated and trained on, per second of training by the clock;
    - ``per_cpu_second``: the same per second of processor time, which other jobs disturb less;
    - ``end_to_end``: seconds of set-up without warm start (compilation, construction) and training;
    - ``process``: seconds of the whole process, with imports and warm start.
    """
    setup = result["setup"]
    building = sum(v for k, v in setup.items() if k not in ("import", "warm_start"))
    return {
        "throughput": result["tokens"] / result["seconds"],
        "per_cpu_second": result["tokens"] / result["cpu_seconds"],
        "seconds": result["seconds"],
        "build_seconds": building,
        "warm_start_seconds": setup.get("warm_start", 0.0),
        "end_to_end": building + result["seconds"],
        "process": result["process_seconds"],
        "peak_mib": result["peak_mib"],
    }


def summarise(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians by contender, and this project's ratios to each, taken within rounds.

    A ratio above 1 means that this project is faster; with its smallest and largest round.
    """
    rates: dict[str, dict[int, dict[str, float]]] = {}
    for result in results:
        rates.setdefault(result["contender"], {})[result["round"]] = _rates(result)
    first = next(iter(CONTENDERS))
    summary: dict[str, Any] = {}
    for contender, by_round in rates.items():
        every = list(by_round.values())
        ratios = {}
        for name in ("throughput", "per_cpu_second", "end_to_end", "process"):
            larger_is_better = name in ("throughput", "per_cpu_second")
            pairs = [
                (rates[first][r][name], by_round[r][name])
                for r in by_round
                if r in rates.get(first, {})
            ]
            found = sorted(a / b if larger_is_better else b / a for a, b in pairs)
            if found:
                ratios[name] = [statistics.median(found), found[0], found[-1]]
        runs = [r for r in results if r["contender"] == contender]
        summary[contender] = {
            "rounds": len(every),
            "median": {k: statistics.median(e[k] for e in every) for k in every[0]},
            "ours_over_it": ratios,
            "parameters": runs[0]["parameters"],
            "tokens": runs[0]["tokens"],
            "updates": runs[0]["updates"],
            "processes": runs[0]["processes"],
            "reward": [
                statistics.fmean(x for r in runs for x in r["rewards"][:3]),
                statistics.fmean(x for r in runs for x in r["rewards"][-3:]),
            ],
        }
    return summary


def table(summary: dict[str, Any]) -> str:
    """The summary in Markdown."""
    lines = [
        "| | tokens/s | ours / it | per cpu-s: ours / it | build s | train s "
        "| build + train: ours / it | MiB | parameters | reward, first to last |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]

    def ratio(row: dict[str, Any], name: str) -> str:
        if name not in row["ours_over_it"]:
            return ""
        middle, low, high = row["ours_over_it"][name]
        return f"**{middle:.2f}** ({low:.2f} to {high:.2f})"

    for contender, label in CONTENDERS.items():
        if contender not in summary:
            continue
        row = summary[contender]
        m = row["median"]
        lines.append(
            f"| {label} | {m['throughput']:,.0f} | {ratio(row, 'throughput')} "
            f"| {ratio(row, 'per_cpu_second')} | {m['build_seconds']:.1f} | {m['seconds']:.2f} "
            f"| {ratio(row, 'end_to_end')} | {m['peak_mib']:,.0f} | {row['parameters']:,} "
            f"| {row['reward'][0]:.2f} to {row['reward'][1]:.2f} |"
        )
    return "\n".join(lines)


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """A call in a process of its own: a contender would inherit the peak of this one's memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _limits(record: dict[str, Any]) -> str:
    """What the arithmetic alone would allow."""
    found = record["roofline"]
    dense, merged = (found["tokens_per_second"][k] for k in ("dense", "merged"))
    return (
        f"The networks take {found['flops_per_token'] / 1e3:.1f} kFLOP a token; at "
        f"{found['gflops_per_core']:.0f} GFLOP/s a core, a large matrix product, the arithmetic "
        f"alone allows {dense:,.0f} tokens/s, and {merged:,.0f} where equal states are merged "
        f"({found['distinct_in_minibatch']:.2f} of a minibatch's tokens and "
        f"{found['distinct_in_rollout']:.2f} of a rollout's are distinct)."
    )


def _caption(record: dict[str, Any]) -> str:
    any_one = record["results"][0]
    work = any_one["workload"]
    return (
        f"{work['environment']}, {work['seeds']} seeds x {work['rollouts']} rollouts of "
        f"{work['prompts']} prompts x {work['group']} responses, {work['minibatches']} updates each: "
        f"{any_one['tokens']:,} tokens and {any_one['updates']:,} updates, the same for all (checked); "
        f"medians of {record['rounds']} interleaved rounds, ratios within rounds (smallest to largest). "
        f"{machine.sentence(record['machine'])}. Other jobs on the machine: load average before a "
        f"measurement {record['load'][0]:.1f} to {record['load'][1]:.1f}."
    )


def save(name: str, record: dict[str, Any], folder: Path) -> None:
    """Write ``<name>.json``, ``<name>.md`` and the figure."""
    from benchmarks.figures import throughput_figure  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    text = f"{table(record['summary'])}\n\n{_limits(record)}\n\n{_caption(record)}\n"
    (folder / f"{name}.md").write_text(text)
    throughput_figure(record, folder / name, CONTENDERS)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "suites",
        nargs="*",
        default=list(SUITES),
        metavar="SUITE",
        help=f"of {', '.join(SUITES)}; default: all",
    )
    parser.add_argument("--rounds", type=int, default=5, help="repeats of every contender")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 4 rollouts")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, help="only these")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    for name in given.suites:
        if name not in SUITES:
            parser.error(f"suite {name!r} is unknown; known: {', '.join(SUITES)}")
    rounds = 2 if given.quick else given.rounds
    console = Console(stderr=True)
    for name in given.suites:
        suite = SUITES[name]
        chosen = [c for c in suite.contenders if c in (given.contenders or suite.contenders)]
        suite = Suite(
            suite.workload, 4 if given.quick else suite.rollouts, tuple(chosen), suite.seeds
        )
        results: list[dict[str, Any]] = []
        with Progress(
            TextColumn(f"[bold]{name}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
        ) as progress:
            task = progress.add_task("", total=rounds * len(chosen))

            def on_done(result: dict[str, Any], results: Any = results, p: Any = progress) -> None:
                results.append(result)
                rate = result["tokens"] / result["seconds"]
                p.update(task, advance=1, description=f"{result['contender']} {rate:,.0f} tokens/s")  # noqa: B023

            interleave(suite, rounds, on_done)
        work = workload(suite.workload, rollouts=suite.rollouts, seeds=suite.seeds)
        loads = [r["load_before"] for r in results]
        record = {
            "suite": name,
            "rounds": rounds,
            "workload": work.described(),
            "machine": machine.described(),
            "load": [min(loads), max(loads)],
            "roofline": _apart(roofline.measured, work),
            "summary": summarise(results),
            "results": results,
        }
        save(f"{name}-quick" if given.quick else name, record, given.out)
        console.print(table(record["summary"]))


if __name__ == "__main__":
    main()
