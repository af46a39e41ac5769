"""A process that judges answers with math-verify. It is run by path and reads and writes JSON lines.

It is killed by the kernel if one answer takes more CPU time than allowed: Python's own timers cannot
interrupt one long operation on integers (``9^9^9^9``), and need the main thread, which trainers
do not give their rewards.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys

MEMORY = 4 << 30  # bytes; a larger intermediate result is a failure of the judge


def main(seconds: float) -> None:
    """Answer until standard input ends; ``seconds`` of CPU time are allowed per answer."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no reply
    from math_verify import (  # noqa: PLC0415
        ExprExtractionConfig,
        LatexExtractionConfig,
        parse,
        verify,
    )

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its timer is off
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # whose default is to end the process
    gold = (LatexExtractionConfig(), ExprExtractionConfig())
    said = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        answer, truth = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            wanted = truth if "$" in truth else f"${truth}$"
            right = parse(wanted, extraction_config=gold, parsing_timeout=None)
            found = parse(f"$\\boxed{{{answer}}}$", extraction_config=said, parsing_timeout=None)
            reply = bool(right and found and verify(right, found, timeout_seconds=None))
            failure = None if right else "the truth has no expression"
        except Exception as error:
            reply, failure = False, type(error).__name__
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps([reply, failure]), file=replies, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
