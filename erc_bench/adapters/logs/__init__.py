"""Logs of real training runs as our records, so that an LLM run is drawn by the code that draws toys.

``reading`` turns a log of TRL, verl or TensorBoard into rows, ``names`` says what is called what there,
``writing`` makes a results folder of them.
"""

from erc_bench.adapters.logs.names import LoggedRun
from erc_bench.adapters.logs.reading import read_log, read_tensorboard, read_trl, read_verl
from erc_bench.adapters.logs.writing import write_records

__all__ = [
    "LoggedRun",
    "read_log",
    "read_tensorboard",
    "read_trl",
    "read_verl",
    "write_records",
]
