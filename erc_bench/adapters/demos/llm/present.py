"""From the demo's runs to records, the suite's figures 2 to 4, a table and the noise floor."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from erc_bench import api
from erc_bench.adapters.demos.llm.noise import tabulate
from erc_bench.adapters.demos.llm.training import Settings
from erc_bench.adapters.logs import read_trl, write_records
from erc_bench.analysis.statistics.intervals import median_interval
from erc_bench.analysis.tables import markdown_table
from erc_bench.core.errors import InputError
from erc_bench.core.storage import read_object, write_text
from erc_bench.studies.records import read_table

__all__ = ["present", "run_folder", "table"]

SHOWN = {
    "reward/initial": ("reward before", 1.0, ""),
    "reward/final": ("reward after", 1.0, ""),
    "mean/clip/ratio_bound_fraction": ("clip binds", 100.0, " %"),
    "mean/drift/out_of_band_fraction": ("outside the band", 100.0, " %"),
    "mean/gate/dropped_fraction": ("dropped", 100.0, " %"),
    "mean/drift/kl_k3": ("KL (k3), nats", 1.0, ""),
    "entropy/final": ("entropy after, nats", 1.0, ""),
    "std/grad/norm": ("spread of the gradient norm", 1.0, ""),
}


def run_folder(out: Path, objective: str, seed: int) -> Path:
    """The folder of one run."""
    return out / "runs" / f"{objective.replace(':', '-').replace(',', '-')}-seed{seed}"


def present(
    out: Path, settings: Settings, objectives: Sequence[str], seeds: Sequence[int]
) -> list[Path]:
    """Write ``records/``, ``figures/``, ``table.md`` and, where it was measured, ``noise.md``."""
    keys = [(name, seed) for seed in seeds for name in objectives]
    runs = {key: read_trl(run_folder(out, *key) / "trainer_state.json") for key in keys}
    ends = {key: _ends(run_folder(out, *key) / "evaluation.json") for key in keys}
    shutil.rmtree(out / "records", ignore_errors=True)  # made anew from the runs, which stay
    results = write_records(
        out / "records",
        runs,
        experiment=f"addition_{Path(settings.model).name}",
        settings=asdict(settings),
        evaluations=ends,
    )
    text = table(results.read("runs"), results.read("metrics"))
    write_text(out / "table.md", text)
    written = [*api.figures(results, out / "figures"), out / "table.md"]
    if (out / "noise.parquet").is_file():
        noise = tabulate(read_table(out / "noise.parquet").to_pandas())
        write_text(out / "noise.md", noise_markdown(noise))
        written.append(out / "noise.md")
    return written


def _ends(path: Path) -> tuple[float, float]:
    """The rewards before and after training.

    Raises:
        InputError: the file does not have them.
    """
    found = read_object(path, "out")
    before, after = (found.get(f"reward/{when}") for when in ("initial", "final"))
    if not (isinstance(before, int | float) and isinstance(after, int | float)):
        raise InputError(f"out: {path} has no rewards before and after training")
    return float(before), float(after)


def table(runs: pd.DataFrame, metrics: pd.DataFrame) -> str:
    """Medians over seeds and paired differences to the first arm, with 95 % intervals or the values."""
    by_run = metrics.groupby(["objective", "seed"])
    values = runs.set_index(["objective", "seed"])
    for column in SHOWN:
        kind, _, metric = column.partition("/")
        if kind in ("mean", "std"):
            values[column] = by_run[metric].agg(kind)
    arms = list(dict.fromkeys(runs["objective"]))
    parts = [values.loc[arm, [*SHOWN]] for arm in arms]
    parts += [part - parts[0] for part in parts[1:]]
    head = [f"median over {runs['seed'].nunique()} seeds", *arms]
    head += [f"{arm} - {arms[0]}, paired" for arm in arms[1:]]
    rows = [
        [name, *(_text(part[column], scale, unit) for part in parts)]
        for column, (name, scale, unit) in SHOWN.items()
    ]
    return markdown_table(head, rows) + "\n"


def _text(values: pd.Series, scale: float, unit: str) -> str:
    """Median and 95 % interval; the values where the seeds are too few for an interval."""
    interval = median_interval(values)
    text = f"{interval.estimate * scale:.3g}{unit}"
    if not interval.known:
        return f"{text} ({', '.join(f'{v * scale:.3g}' for v in values.dropna())})"
    return f"{text} ({interval.low * scale:.3g} to {interval.high * scale:.3g})"


def noise_markdown(rows: pd.DataFrame) -> str:
    """The noise floor as a Markdown table."""
    shown = pd.DataFrame(
        {
            "same policy, computed in": rows["comparison"],
            "old entropy (nats)": rows["entropy"],
            "tokens": rows["tokens"],
            "outside the 5 % band": (100 * rows["out_of_band"]).map("{:.2f} %".format),
            "ratio outside 0.8 to 1.28": (100 * rows["out_of_clip"]).map("{:.2f} %".format),
            "median abs log rho": rows["median_abs_log_rho"].map("{:.2g}".format),
        }
    )
    return markdown_table([*shown], shown.to_numpy()) + "\n"
