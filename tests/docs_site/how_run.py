"""How each command and Python block of the documents is executed here, or why it is not.

Commands of a document run in its order, in one temporary folder, through the same entry point. The
rule for their size: ``erc-bench run`` gets SMALL in place of its own tier and seeds, ``erc-bench check``
of a function ``--no-drift`` unless the command is about the comparison, and a long command the arguments
named beside it. Nothing else about a command is changed.
"""

from __future__ import annotations

#: What ``erc-bench run`` gets instead of its own ``--tier`` and ``--seeds``.
SMALL = [
    "--tier",
    "smoke",
    "--seeds",
    "2",
    "--no-report",
    "--set",
    "rollouts=2",
    "--set",
    "warm_start_steps=20",
    "--set",
    "evaluation_episodes=64",
]

#: Commands executed with these arguments put at their end.
SHRUNK: dict[str, list[str]] = {
    "erc-bench sb3 demo --out results/sb3": [
        "--environments",
        "erc/DriftBandit-v0",
        "--steps",
        "2048",
        "--seeds",
        "2",
    ],
    "erc-bench sb3 demo --environments CartPole-v1 --steps 10000 --seeds 2 --out results/control": [
        "--steps",
        "2048",
    ],
}

#: Executed as they stand.
AS_IT_IS = {
    "erc-bench list",
    "erc-bench list experiments",
    "erc-bench check erc-dapo --no-drift",
    "erc-bench check my_policy_loss:my_loss",
    "erc-bench explain --out page.html",
    "erc-bench run --verify results/mine",
    "erc-bench report results/mine",
    "erc-bench figures results/mine --out my-figures",
    "erc-bench figures results/mine --out my-figures --data",
    "erc-bench figures --from figures/data --out again",
    "erc-bench figures --from my-figures/data --out again",
    "erc-bench figures results/full --out figures --data",
    "erc-bench claims figures/data",
    "erc-bench claims results/mine",
    "erc-bench llm import erc-dapo:0=verl.jsonl dapo:0=trainer_state.json --out results/imported",
    "erc-bench repro plan --engine trl",
    "erc-bench repro plan --model 1.5b",
    "erc-bench repro plan --model 1.5b --objective erc-dapo --out plans",
    "erc-bench check my_package.losses:my_loss",
    "erc-bench check my_package.losses:my_loss --baseline dapo",
    "erc-bench check my_package.losses:my_loss --set clip=0.2 --set tau=1.0",
    "erc-bench check my_package.losses:configured_loss --set config.low=0.2 --set config.high=0.28",
    "erc-bench check my_package.losses:renamed_loss --bind before=old_logp",
    "erc-bench check my_package.losses:skyrl_loss --like skyrl --set config.eps_clip_high=0.28",
    "erc-bench check my_package.losses:my_loss erc-dapo --strict",
    'erc-bench check my_package.losses:my_loss --waive padding_rows="TRL divides by all rows"',
    "erc-bench check my_package.losses:my_loss --junit report/check.xml --json report/check.json "
    "--markdown report/check.md",
    'pytest --erc-check my_package.losses:my_loss --erc-waive padding_rows="TRL divides by all rows"',
    "pytest",
}

_CI = "CI runs this target"
_REGISTRY = "asks a package registry"
_ORACLE = "needs erc-bench[llm] or verl; the same command is tested there: make test-oracles"
_BENCH = "make bench: an hour, and other installations"
_GPU = "needs GPUs, or a model and data from a hub"
#: Not executed here, and why.
NOT_HERE: dict[str, str] = {
    "erc-bench explain": "opens a browser; tests/test_cli_explain.py runs it",
    "erc-bench explain --preset swap": "opens a browser; tests/test_cli_explain.py runs it",
    "make demo": "an installation, then `erc-bench run`, which is executed",
    "make test": _CI,
    "make lint": _CI,
    "make docs": _CI,
    "make docs-serve": "serves until it is stopped",
    "make test-oracles": _CI,
    "make test-lowest": _CI,
    "python -m pytest tests/robustness": _CI,
    "PYTHONPATH=tests python -m robustness --kills 50": "ten minutes; CI kills less often",
    "PYTHONPATH=tests python -m robustness.fuzz trl -max_total_time=120": "needs erc-bench[fuzz]",
    "python -m benchmarks.soak --minutes 60": "an hour",
    "make docs-pages": "needs verl and TRL; tests/differential compares its page with what is measured",
    "make bench": "an hour, and other installations",
    "make llm-demo": "hours",
    "pip install erc-bench": _REGISTRY,
    "pip install -e .": _REGISTRY,
    "pip install -e '.[test]'": _REGISTRY,
    "pip install verl==0.9.1": _REGISTRY,
    "pip install -c constraints.txt torch": _REGISTRY,
    "export VERL_USE_EXTERNAL_MODULES=erc_bench.adapters.verl": "for the next command, which is not run",
    "python -m verl.trainer.main_ppo trainer.v1.trainer_mode=erc_bench "
    "actor_rollout_ref.actor.policy_loss.loss_mode=erc_bench "
    "actor_rollout_ref.actor.calculate_entropy=True +trainer.v1.erc_bench.objective=erc-dapo "
    "...": "incomplete on purpose; tests/adapters/verl_e2e.py has a whole one",
    "erc-bench claims RESULTS [--json FILE] [--markdown FILE]": "a synopsis",
    "erc-bench llm demo --model tiny --out results/tiny": _ORACLE,
    "erc-bench llm demo --model tiny --seeds 1 --rollouts 6 --out results/tiny": _ORACLE,
    "erc-bench repro validate": _ORACLE,
    "python tests/adapters/verl_e2e.py FOLDER dapo 12": _ORACLE,
    "python tests/adapters/verl_e2e.py FOLDER erc-dapo 12": _ORACLE,
    "python -m paper_repro.data test all --from-hub --out data": _GPU,
    "python -m paper_repro.data train Kwai-Klear/KlearReasoner-MathSub-30K --from-hub --out data": _GPU,
    "python -m paper_repro.evaluation generate CHECKPOINT data --out eval/run.jsonl": _GPU,
    "python -m paper_repro.evaluation score eval/run.jsonl --out eval/run.json": _GPU,
    "erc-bench repro compare eval/run.json --objective erc-dapo --log run.jsonl "
    "--baseline eval/dapo.json": "of files that the commands before it make; tests/paper_repro runs it",
    ".venv-bench/bin/python -m benchmarks.run": _BENCH,
    ".venv-bench/bin/python -m benchmarks.run one_seed": _BENCH,
    ".venv-bench/bin/python -m benchmarks.run --quick": _BENCH,
    ".venv-bench/bin/python -m benchmarks.scaling": _BENCH,
    ".venv-bench/bin/python -m benchmarks.gate_cost": _BENCH,
    ".venv-bench/bin/python -m benchmarks.contenders.jax --workload token --seeds 16 --rollouts 20": _BENCH,
}

#: Commands that one document leaves to another, and why.
ELSEWHERE: dict[tuple[str, str], str] = {
    (
        "README.md",
        "erc-bench figures --from figures/data --out again",
    ): "a minute; figures/README.md "
    "has it too, where it is executed on the small records that the commands before it made",
}

#: Python blocks, by document and number: text that is replaced before they run, so that they are short.
SMALLER: dict[tuple[str, int], dict[str, str]] = {
    ("README.md", 1): {"seeds=5": 'seeds=2, tier="smoke", progress=False'},
    ("docs/index.md", 0): {"out=": 'seeds=2, tier="smoke", progress=False, out='},
    ("docs/quick-start.md", 0): {"seeds=3": "seeds=2, progress=False"},
    ("docs/sb3.md", 0): {"50_000": "128", "band_high=0.05": "band_high=0.05, n_steps=64"},
}

#: Python blocks that are not executed, and why.
NO_BLOCK: dict[tuple[str, int], str] = {
    (
        "docs/trl.md",
        0,
    ): "downloads a model; tests/adapters/test_adapters_trl.py trains the same class",
}
