"""Doctests are collected from every module: here are those that need a package which may be absent."""

from importlib.util import find_spec

NEEDS = {
    "atheris": ["tests/robustness/fuzz.py"],
    "jax": ["erc_bench/conformance/jax_bridge.py"],
    "griffe": ["tools/docs_pages/roles.py"],
    "latex2mathml": ["tools/docs_pages/formulas.py", "tools/docs_pages/metrics.py"],
    "trl": ["erc_bench/adapters/trl.py"],
    "verl": ["erc_bench/adapters/verl"],
    "math_verify": ["paper_repro/reward.py"],
    "nbconvert": ["tools/docs_pages/site.py"],
}
collect_ignore = ["paper_repro/judge_worker.py", "tools/docs_pages/gen_files.py"]  # scripts
for package, paths in NEEDS.items():
    if find_spec(package) is None:
        collect_ignore += paths
