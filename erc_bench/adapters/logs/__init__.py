"""Logs of other trainers as records of ours: TRL, verl, TensorBoard; imports records and errors only.

    run = read_log("run1/trainer_state.json")
    results = write_records("results/llm", {("dapo", 0): run}, experiment="llm")

``results`` is a results folder like any other: figures 2 to 4 are drawn from it by the same code.
"""

from erc_bench.adapters.logs.formats import read_log, read_tensorboard, read_trl, read_verl
from erc_bench.adapters.logs.records import write_records
from erc_bench.adapters.logs.runs import COLUMNS, LoggedRun

__all__ = [
    "COLUMNS",
    "LoggedRun",
    "read_log",
    "read_tensorboard",
    "read_trl",
    "read_verl",
    "write_records",
]
