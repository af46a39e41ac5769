"""What every experiment's smoke tier computes, held bit for bit by the digests of its runs.

A change that must not change results keeps this test green. One that does change them says so in
CHANGELOG.md and writes the digests anew, with ``python tests/studies/test_experiments_smoke_digests.py``.
They are the torch engine's, whose last bits do not hang on a C compiler; the native engine's numbers
are held to them by ``tests/training/test_native_engine.py``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from extras import REASONING_GYM

from erc_bench.studies import EXPERIMENTS, execute, plan
from erc_bench.studies.records import provenance

GOLDEN = Path(__file__).parents[1] / "golden" / "smoke_digests.json"


def machine() -> dict[str, str]:
    """What the last bit of a float depends on, besides the code."""
    where = provenance()
    versions = {name: where["packages"][name] for name in ("torch", "numpy")}
    return versions | {name: where["machine"][name] for name in ("processor", "instructions")}


def smoke_digests(out: Path) -> dict[str, Any]:
    """Digest of every run of the smoke tiers, by experiment and ``arm, seed``.

    An experiment on another package's problems is left out: its numbers are also that package's. So are
    the hundreds of runs in which training breaks: tests/training/test_trainer_regimes.py holds them.
    """
    ours = [
        e.name
        for e in EXPERIMENTS.values()
        if e.environment != REASONING_GYM and e.regime != "breaking"
    ]
    work = plan(ours, tier="smoke", settings={"engine": "torch"})
    results = execute(work, out, workers=2)
    found: dict[str, dict[str, str]] = {}
    for entry in work.experiments:
        for part in entry.parts:
            for (experiment, _, arm, seed), (_, digest) in results.digests(part.name).items():
                found.setdefault(str(experiment), {})[f"{arm}, seed {seed}"] = digest
    return found


@pytest.mark.slow
def test_the_smoke_tier_of_every_experiment_keeps_every_runs_digest(tmp_path):
    golden = json.loads(GOLDEN.read_text())
    here = machine()
    if here != golden["machine"]:
        pytest.skip(f"the digests were made on {golden['machine']}, this is {here}")
    found = smoke_digests(tmp_path / "smoke")
    assert found.keys() == golden["digests"].keys()
    changed = [
        f"{experiment}: {run}"
        for experiment, runs in golden["digests"].items()
        for run in runs.keys() | found[experiment].keys()
        if runs.get(run) != found[experiment].get(run)
    ]
    assert not changed


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        content = {"machine": machine(), "digests": smoke_digests(Path(place) / "smoke")}
    GOLDEN.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    sys.stdout.write(f"{GOLDEN}\n")
