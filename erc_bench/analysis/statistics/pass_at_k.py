"""pass@k of problems with several sampled answers each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from erc_bench.core.errors import InputError

__all__ = ["pass_at_k"]


def pass_at_k(correct: Any, samples: Any, k: int) -> Any:
    """Probability that k of the n answers, drawn without replacement, include a correct one.

        pass@k = 1 - C(n - c, k) / C(n, k) = 1 - prod_{j < k} (n - c - j) / (n - j)

    It is an unbiased estimate of 1 - (1 - p)^k, elementwise over problems. Source: Chen et al. 2021,
    arXiv:2107.03374, equation 1.

    Args:
        correct: c, the number of correct answers to a problem.
        samples: n, the number of answers to it.
        k: the number of answers drawn, at most n.

    >>> pass_at_k([0, 1, 3], 4, 2).tolist()
    [0.0, 0.5, 1.0]
    """
    c, n = np.broadcast_arrays(np.asarray(correct, np.float64), np.asarray(samples, np.float64))
    if not ((n >= 1) & (n == np.floor(n))).all():
        raise InputError(f"samples: {samples}; a whole number of at least 1 is needed")
    if not ((c >= 0) & (c <= n) & (c == np.floor(c))).all():
        raise InputError(f"correct: {correct}; a whole number from 0 to the number of samples")
    if isinstance(k, bool) or int(k) != k or not 1 <= k <= n.min(initial=math.inf):
        raise InputError(f"k: {k}; a whole number from 1 to the number of samples is needed")
    miss = np.ones_like(c)
    for j in range(int(k)):
        miss *= np.maximum(n - c - j, 0.0) / (n - j)
    return 1.0 - miss
