import subprocess
import sys

import pytest

#: Pages that the system had to clear while 200 arrays of 2 MiB came and went.
PROGRAM = """
import resource, sys, torch
from erc_bench.trainer.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(200):
    kept = [torch.ones(2**19) for _ in range(8)]
    del kept
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_freed_memory_is_used_again():
    """Page faults fall to those of the first arrays; the default clears pages again and again."""

    def faults(how):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
        )
        return int(run.stdout)

    assert faults("keep") < faults("default") / 4
