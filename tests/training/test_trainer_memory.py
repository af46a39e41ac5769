import ctypes
import subprocess
import sys

import pytest

#: Arrays that were mapped from the system, of 200 times eight of 2 MiB that come and go, and the MiB that
#: the C library holds for the next ones. Counts of page faults say the same, but not on a busy machine.
PROGRAM = """
import ctypes, sys, torch
from erc_bench.training.memory import give_back_freed_memory, keep_freed_memory

class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
        "keepcost")]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before, most = mallinfo2().hblks, 0
for _ in range(200):
    kept = [torch.ones(2**19) for _ in range(8)]
    most = max(most, mallinfo2().hblks - before)
    del kept
held = mallinfo2().fordblks / 2**20
resident = int(open("/proc/self/statm").read().split()[1])
give_back_freed_memory()
print(most, held, (resident - int(open("/proc/self/statm").read().split()[1])) / 2**8)
"""


@pytest.mark.skipif(
    not (sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallinfo2")),
    reason="a setting of glibc, and a count of glibc 2.33",
)
def test_freed_memory_is_used_again():
    """No array is mapped from the system, and all 16 MiB stay for the next, until they are given back;
    by default all eight are mapped."""

    def allocated(how):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
        )
        mapped, held, returned = run.stdout.split()
        return int(mapped), float(held), float(returned)

    mapped, held, returned = allocated("keep")
    assert mapped == 0
    assert held > 16
    assert returned > 14
    assert allocated("default")[0] == 8
