"""The documentation's page of properties, made from the registry.

python -m erc_bench.conformance.page > docs/conformance.md
"""

from __future__ import annotations

import sys

from erc_bench.conformance import PROPERTIES
from erc_bench.conformance.signatures import ALIASES, ROW_COUNTS, TOKEN_COUNTS

__all__ = ["page"]

_HEAD = """\
# What every policy loss must satisfy

`erc-bench check LOSS` holds a loss against the rules below, each of which has caught a planted
fault in the tests (`tests/conformance/planted_faults.py`). A rule that a loss breaks on purpose
is waived by name, with a reason that is printed in every report: `--waive padding_rows="TRL
divides by all rows"`. How to set it up: [Put your loss through CI](tutorials/ci-check.md).

In what follows `r` is the sampled action's probability ratio, `A` its advantage, `rho` the ratio
of the policy's entropy to the old policy's, `H` an entropy. Everything is measured in float64
with autograd, except where precision is the point. This page is generated from the docstrings:
`python -m erc_bench.conformance.page > docs/conformance.md`.

| property | rule |
| --- | --- |
"""

_SIGNATURES = """\
## Signatures

A loss may be

- an erc-bench `Objective`, or a function or class without required parameters that makes one, or
  makes any of the below;
- a function of one `TokenBatch` (a parameter of that type, or named `batch`), returning the loss,
  or the loss and metrics;
- verl's: `f(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config,
  rollout_is_weights)`; `config` is a stand-in with verl 0.9's defaults (`clip_ratio` 0.2,
  `clip_ratio_c` 3) and `global_batch_info`, and takes further values from `--set`. Parameters
  named `entropy` and `old_entropy` are given, where the function has them;
- TRL-like: `f(per_token_logps, old_per_token_logps, advantages, completion_mask, ...)`;
  advantages have one value per response where the function takes that, else one per token;
- any function whose parameters have the names below, in any order.

It returns a scalar, or one value per token `(B, T)` or response `(B,)`, which `--aggregate`
reduces (token-mean if not given); alone, first in a tuple, or under `loss` in a dict. Masks are
integers for verl and TRL, bool elsewhere.

| given | names |
| --- | --- |
"""


def page() -> str:
    """Markdown: an overview, each property with reason and example, the signatures."""
    rows = [f"| [`{p.name}`](#{p.name}) | {_cell(p.rule)} |" for p in PROPERTIES.values()]
    sections = [
        f"## {p.name}\n\n{p.rule}\n\n{p.why}\n\nCatches, for example, {p.catches}.\n"
        for p in PROPERTIES.values()
    ]
    names: dict[str, list[str]] = {}
    for alias, field in ALIASES.items():
        names.setdefault(field, []).append(f"`{alias}`")
    names["tokens of the whole batch"] = [f"`{n}`" for n in sorted(TOKEN_COUNTS)]
    names["responses of the whole batch"] = [f"`{n}`" for n in sorted(ROW_COUNTS)]
    given = [f"| {field} | {', '.join(aliases)} |" for field, aliases in names.items()]
    parts = (_HEAD + "\n".join(rows) + "\n", *sections, _SIGNATURES + "\n".join(given) + "\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
