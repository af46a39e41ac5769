"""The storm as a command; exits with 1 if anything was lost, torn or left running."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from robustness.storm import COMMANDS, Server, whole


def run_all() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(COMMANDS), default=None)
    chosen = parser.parse_args()
    server, faults = Server(), 0
    for name in [chosen.only] if chosen.only else COMMANDS:
        with tempfile.TemporaryDirectory() as where:
            found = whole(name, Path(where), chosen.kills, chosen.seed, server)
            print(json.dumps(asdict(found)), flush=True)
            faults += len(found.faults)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    run_all()
