"""Figures of the measurements, in the project's style."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from benchmarks import machine
from erc_bench.presentation.plots.style import ACCENT, INK, MUTED, WIDE, styled

__all__ = ["scaling_figure", "soak_figure", "throughput_figure"]


def _save(figure: plt.Figure, stem: Path) -> None:
    for suffix in ("png", "svg"):
        options = {"metadata": {"Date": None}} if suffix == "svg" else {"dpi": 200}
        figure.savefig(stem.with_suffix(f".{suffix}"), bbox_inches="tight", **options)
    plt.close(figure)


def _footer(figure: plt.Figure, record: dict[str, Any]) -> None:
    text = machine.sentence(record["machine"])
    figure.text(0, -0.02, text, ha="left", va="top", fontsize=5, color=MUTED, wrap=True)


@styled
def throughput_figure(record: dict[str, Any], stem: Path, labels: Mapping[str, str]) -> None:
    """Tokens per second of every contender, with a dot for each round and a ring for the median."""
    names = [n for n in labels if n in record["summary"]][::-1]
    figure, axes = plt.subplots(figsize=(WIDE, 0.6 + 0.25 * len(names)), layout="constrained")
    for y, name in enumerate(names):
        row = record["summary"][name]
        middle = row["median"]["throughput"]
        colour = ACCENT if name.startswith("ours") else MUTED
        rates = [r["tokens"] / r["seconds"] for r in record["results"] if r["contender"] == name]
        axes.plot([min(rates), max(rates)], [y, y], color=colour, linewidth=0.8)
        axes.plot(rates, [y] * len(rates), ".", color=colour, markersize=4)
        axes.plot(middle, y, "o", color=colour, markersize=8, fillstyle="none")
        ratio = row["ours_over_it"].get("throughput")
        text = f"{middle:,.0f}"
        if ratio and name != "ours":
            text += f"    ours / it {ratio[0]:.2g}"
        axes.annotate(
            text, (max(rates), y), (8, 0), textcoords="offset points", va="center", color=INK
        )
    axes.set_yticks(range(len(names)), [labels[n] for n in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 4)
    work = record["workload"]
    axes.set_xlabel("tokens generated and trained on, per second")
    axes.set_title(
        f"{work['environment']}: {work['seeds']} seeds, equal tokens and updates, "
        f"{record['rounds']} interleaved rounds"
    )
    _footer(figure, record)
    _save(figure, stem)


@styled
def scaling_figure(record: dict[str, Any], stem: Path) -> None:
    """Cost per rollout with its fit above, peak memory below; one column per axis."""
    axes_of = record["axes"]
    figure, axes = plt.subplots(
        2, len(axes_of), figsize=(WIDE, 3.3), sharex="col", squeeze=False, layout="constrained"
    )
    for (name, axis), (top, bottom) in zip(axes_of.items(), axes.T, strict=True):
        points = axis["points"]
        x = np.array([p["x"] for p in points])
        top.loglog(x, [1e3 * p["seconds"] for p in points], "o", color=ACCENT, markersize=3)
        fitted = axis["fit"]
        fine = np.geomspace(x.min(), x.max(), 100)
        curve = fitted["floor"] + fitted["scale"] * fine ** fitted["exponent"]
        top.loglog(fine, 1e3 * curve, color=INK, linewidth=0.8)
        top.set_title(name)
        top.text(
            0.05,
            0.95,
            f"exponent {fitted['exponent']:.2f}\nfloor {1e3 * fitted['floor']:.0f} ms",
            transform=top.transAxes,
            va="top",
            fontsize=6.5,
            color=INK,
        )
        memory = [p["peak_mib"] / p["runs"] for p in points]
        bottom.loglog(x, memory, "o-", color=MUTED, markersize=3)
        low, high = min(memory), max(memory)
        bottom.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))
        bottom.set_xlabel("updates per rollout" if name == "staleness" else name)
    axes[0, 0].set_ylabel("ms per rollout")
    axes[1, 0].set_ylabel("peak MiB per run")
    _footer(figure, record)
    _save(figure, stem)


@styled
def soak_figure(record: dict[str, Any], table: pd.DataFrame, stem: Path) -> None:
    """Memory after every sweep, of the process alone and with its children; below, seconds per sweep."""
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(WIDE, 3.0), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    minutes = table["at"] / 60
    for name, colour, label in (
        ("anonymous_all_mib", MUTED, "with its workers, anonymous"),
        ("anonymous_mib", ACCENT, "the process, anonymous"),
        ("allocated_mib", INK, "the process, allocated and not freed"),
    ):
        slope, (low, high) = record[name]["slope_per_hour"], record[name]["interval"]
        told = f"{label}: {slope:+.1f} ({low:+.1f} to {high:+.1f}) MiB per hour"
        top.plot(minutes, table[name], ".-", color=colour, markersize=3, linewidth=0.6, label=told)
    top.set_ylim(bottom=0)
    top.set_ylabel("MiB after a sweep")
    top.legend(loc="center left", bbox_to_anchor=(0.03, 0.6), fontsize="small")
    top.set_title(
        f"{record['sweeps']} sweeps in {60 * record['hours']:.0f} min; slopes after the first quarter"
    )
    for workers, mark in ((1, "."), (2, "x")):
        chosen = table["workers"] == workers
        label = "in this process" if workers == 1 else f"{workers} workers"
        bottom.plot(
            minutes[chosen], table["seconds"][chosen], mark, color=INK, markersize=4, label=label
        )
    bottom.set_ylim(bottom=0)
    bottom.set_ylabel("s per sweep")
    bottom.set_xlabel("minutes")
    bottom.legend(loc="lower left", ncol=2, fontsize="small")
    _footer(figure, record)
    _save(figure, stem)
