"""``benchmarks`` is not installed: it is imported from the checkout."""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parents[2]))
