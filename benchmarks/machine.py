"""What the measurements were made on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.harness import cores

__all__ = ["PACKAGES", "described", "sentence"]

PACKAGES = (
    "torch",
    "numpy",
    "gymnasium",
    "stable_baselines3",
    "trl",
    "transformers",
    "accelerate",
    "datasets",
    "jax",
    "jaxlib",
    "optax",
    "erc-bench",
)


def _git(*arguments: str) -> str:
    answer = subprocess.run(
        ["git", *arguments],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def described() -> dict[str, Any]:
    """Processor, memory, versions, commit; no names or paths of the machine."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": round(pages / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": versions,
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", "erc_bench", "envs")),
    }


def sentence(machine: dict[str, Any]) -> str:
    """One line for captions."""
    packages = ", ".join(f"{k} {v}" for k, v in machine["packages"].items() if v)
    cores = "1 core" if machine["cores"] == 1 else f"{machine['cores']} cores"
    return (
        f"{cores} of {machine['processor']}, {machine['memory_gib']:g} GiB, "
        f"{machine['system']}, Python {machine['python']}; {packages}"
    )
