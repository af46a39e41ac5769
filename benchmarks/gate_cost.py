"""What Entropy Ratio Clipping costs: one population update, and one language-model head.

    python -m benchmarks.gate_cost [--parts update head] [--tokens 1024] [--repetitions 5]

Everything that is compared is timed in one process, in turns, on one thread, in seconds of processor
time, which other programs on the machine hardly change; reported is the median over repetitions of
the ratio within a repetition. Prints Markdown, writes results/gate_cost.json here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import erc_envs  # noqa: F401  # registers the environments
from erc_bench.core.batch import TokenBatch
from erc_bench.core.large_vocabulary import logp, logp_and_entropy
from erc_bench.core.numerics import entropy
from erc_bench.objectives import Objective, make
from erc_bench.training import Arm, TrainConfig, Trainer
from erc_bench.training.engine import Minibatch
from erc_bench.training.loop import collect, train_on_one_rollout
from erc_bench.training.optimizer import Adam, Learner
from erc_bench.training.population import leaves
from erc_bench.training.state import Setup
from erc_bench.training.torch_engine import TorchEngine

HERE = Path(__file__).parent

#: Shares of an update's time that the gate may take.
TARGETS = {"update": 0.03, "head": 0.10}

RUNS, ROLLOUTS = 16, 60
VOCABULARY, TOKENS, HIDDEN = 151_936, 1024, 896


def seconds(function: Callable[[], Any]) -> float:
    """The processor time of one call, in seconds."""
    start = time.process_time()
    function()
    return time.process_time() - start


def in_turns(variants: dict[str, Callable[[], Any]], repetition: int) -> dict[str, float]:
    """Time each once, in an order that is reversed and rotated from one repetition to the next."""
    names = list(variants)
    shift = repetition // 2 % len(names)
    names = (names[shift:] + names[:shift])[:: -1 if repetition % 2 else 1]
    return {name: seconds(variants[name]) for name in names}


def summary(rows: list[dict[str, float]], base: str) -> dict[str, dict[str, float]]:
    """Median seconds of each, and the median of its ratio to ``base`` in the same repetition.

    With the median's 95 % interval from order statistics: the whole range, for few repetitions.
    """
    found = {}
    low = max(0, int(len(rows) / 2 - 0.98 * len(rows) ** 0.5))
    for name in rows[0]:
        ratios = sorted(row[name] / row[base] for row in rows)
        found[name] = {
            "seconds": median(row[name] for row in rows),
            "ratio_low": ratios[low],
            "ratio": median(ratios),
            "ratio_high": ratios[-1 - low],
        }
    return found


class Alternating(TorchEngine):
    """Torch's engine with an update that takes turns between objectives, and times each whole update."""

    def __init__(self, *objectives: str) -> None:
        self.rows: list[dict[str, float]] = []
        self.objectives = [(name, make(name)) for name in objectives]
        self.updates = 0

    def update(self, setup: Setup, policy: Learner, minibatch: Minibatch, _: Any) -> Any:
        """See :meth:`Engine.update`."""
        self.shape = list(minibatch.fixed["mask"].shape)
        pair, place = divmod(self.updates, 2)
        name, objective = self.objectives[place ^ (pair % 2)]
        started = time.process_time()
        found = super().update(setup, policy, minibatch, [objective])
        self.updates += 1
        if not place:
            self.rows.append({})
        self.rows[-1][name] = time.process_time() - started
        return found


def population(engine: TorchEngine) -> Trainer:
    """16 runs of the token task in the paper's regime."""
    dynamics = forks()
    config = TrainConfig(warm_start_steps=50, evaluation_episodes=1)
    arm = Arm("gppo", make("gppo"), "group-zscore", range(RUNS))
    return Trainer(config, dynamics, dynamics.observation_space, [arm], seed=0, engine=engine)


def forks() -> Any:
    """Dynamics of the token task, at its default vocabulary of 32."""
    environment: Any = gymnasium.make("erc/TokenForks-v0").unwrapped
    return environment.dynamics


def trainer_update() -> dict[str, Any]:
    """Vocabulary 32: the trainer's own update, in which entropy is measured with and without a gate."""
    alternating = Alternating("gppo", "erc-gppo")
    trainer = population(alternating)
    setup, state = trainer.setup, trainer.state
    for rollout in range(1 + ROLLOUTS):
        state = train_on_one_rollout(setup, alternating, state)
        if not rollout:  # warm-up
            alternating.rows.clear()
    return {
        "shape": alternating.shape,
        "repetitions": len(alternating.rows),
        "variants": summary(alternating.rows, "gppo"),
    }


def bare_update() -> dict[str, Any]:
    """The same without drift measures, where the gate also pays for the entropy that only it reads."""
    trainer = population(TorchEngine())
    setup, config = trainer.setup, trainer.setup.config
    state, rollout, _ = collect(setup, trainer.engine, trainer.state)
    rows_ = slice(0, config.prompts * config.group_size // config.minibatches)
    obs, old = (rollout.seen[name][:, rows_] for name in ("obs", "log_probs"))
    action, mask = rollout.action[:, rows_], rollout.mask[:, rows_]
    old_logp = old.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    old_entropy = entropy(old)
    advantage = torch.randn(mask.shape)
    params = leaves(state.policy.params)
    adam = Adam(torch.zeros(RUNS), max_grad_norm=1.0)

    def bare(objective: Objective) -> None:
        log_probs = torch.log_softmax(setup.policy.forward(params, obs), -1)
        log_p = log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        extra = {}
        if objective.gates:
            extra = {"entropy": entropy(log_probs.detach()), "old_entropy": old_entropy}
        loss, _ = objective(TokenBatch(log_p, old_logp, advantage, mask, **extra))
        gradients = torch.autograd.grad(loss.sum(), list(params.values()))
        adam.step(state.policy, gradients, loss.detach())  # of size 0, so that nothing moves

    gated, free = make("erc-gppo"), make("gppo")
    variants = {"gppo": lambda: bare(free), "erc-gppo": lambda: bare(gated)}
    repetitions = 200
    rows = [in_turns(variants, r) for r in range(-10, repetitions)][10:]
    return {
        "shape": list(mask.shape),
        "repetitions": repetitions,
        "variants": summary(rows, "gppo"),
    }


def head_variants(
    logits: Tensor, action: Tensor, old_logp: Tensor, old_entropy: Tensor
) -> dict[str, Callable[[], Tensor]]:
    """Logits to their gradient, through the project's own objectives; no gate comes first."""
    advantage = torch.linspace(-1, 1, action.numel()).view(action.shape)
    mask = torch.ones_like(action, dtype=torch.bool)
    gated, free = make("erc-gppo"), make("gppo")

    def gradient(log_p: Tensor, new_entropy: Tensor | None) -> Tensor:
        extra = {}
        if new_entropy is not None:
            extra = {"entropy": new_entropy, "old_entropy": old_entropy}
        objective = free if new_entropy is None else gated
        loss, _ = objective(TokenBatch(log_p, old_logp, advantage, mask, **extra))
        return torch.autograd.grad(loss, logits)[0]

    def whole(gate: bool) -> Tensor:
        log_probs = torch.log_softmax(logits, -1, dtype=torch.float32)
        log_p = log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        return gradient(log_p, entropy(log_probs.detach()) if gate else None)

    return {
        "logp": lambda: gradient(logp(logits, action), None),
        "logp + entropy + gate": lambda: gradient(*logp_and_entropy(logits, action)),
        "log_softmax": lambda: whole(False),
        "log_softmax + entropy + gate": lambda: whole(True),
    }


def peak_bytes(function: Callable[[], Any]) -> int:
    """The most bytes that a call holds at once in the CPU allocator, beyond those held before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = function()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    del result
    return peak


def head(dtype: torch.dtype, repetitions: int, tokens: int) -> dict[str, Any]:
    """A head's step: ``hidden @ W^T``, loss, gradients of both.

    The three matrix products are the same whatever the loss; they are timed once in a repetition
    and added to each variant's own time. They are made in float32 for bfloat16 logits too: without
    instructions for it a processor takes many times longer, which would hide any gate's cost.
    """
    torch.manual_seed(0)
    hidden = torch.randn(tokens, HIDDEN)
    weight = torch.randn(VOCABULARY, HIDDEN) * 4 * HIDDEN**-0.5
    action = torch.randint(VOCABULARY, (8, tokens // 8))
    old_logp = old_entropy = None
    own, step, parts = [], [], []
    for repetition in range(repetitions):
        made: list[Tensor] = []
        forward = seconds(lambda: made.append(hidden @ weight.T))  # noqa: B023  # called at once
        logits = made.pop().to(dtype).view(*action.shape, VOCABULARY).requires_grad_()
        if old_logp is None or old_entropy is None:
            with torch.no_grad():
                old_logp, old_entropy = logp_and_entropy(logits, action)
            variants = head_variants(logits, action, old_logp, old_entropy)
            for function in variants.values():
                function()  # warm-up
        variants = head_variants(logits, action, old_logp, old_entropy)
        times = in_turns(variants, repetition)
        gradient = variants["logp"]().view(tokens, VOCABULARY).float()
        del logits, variants
        backward = seconds(partial(torch.mm, gradient, weight))
        backward += seconds(partial(torch.mm, gradient.T, hidden))
        own.append(times)
        step.append({name: forward + t + backward for name, t in times.items()})
        parts.append({"forward": forward, "backward": backward})
        print(
            f"  {dtype} {repetition + 1}/{repetitions}: products {forward + backward:.1f} s",
            flush=True,
        )
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "tokens": tokens,
        "hidden": HIDDEN,
        "vocabulary": VOCABULARY,
        "repetitions": repetitions,
        "products_seconds": median(p["forward"] + p["backward"] for p in parts),
        "step": summary(step, "logp"),
        "own": summary(own, "logp"),
    }


def head_memory(dtype: torch.dtype) -> dict[str, Any]:
    """Peak memory of each variant beside logits and their gradient, and how it grows with tokens."""
    found: dict[str, dict[int, float]] = {}
    for tokens in (TOKENS // 2, TOKENS):
        logits = torch.randn(8, tokens // 8, VOCABULARY, dtype=dtype).requires_grad_()
        zeros = torch.zeros(8, tokens // 8)
        variants = head_variants(logits, zeros.long(), zeros, zeros + 1)
        for name, function in variants.items():
            extra = peak_bytes(function) - logits.numel() * dtype.itemsize
            found.setdefault(name, {})[tokens] = extra / 1e6
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "logits_megabytes": TOKENS * VOCABULARY * dtype.itemsize / 1e6,
        "extra_megabytes": found,
    }


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
        flags = next(x.split(":")[1].split() for x in lines if x.startswith("flags"))
    except (OSError, StopIteration):
        model, flags = platform.processor(), []
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bfloat16_instructions": any(f in flags for f in ("avx512_bf16", "amx_bf16")),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def markdown(results: dict[str, Any]) -> Iterator[str]:
    """The results as two tables."""
    m = results["machine"]
    yield (
        f"{m['cpu']}, {m['cores']} cores, {m['threads']} threads, torch {m['torch']}, load "
        f"{m['load_average']:.1f} at the start; ratios: median over repetitions [95 % interval]"
    )
    if "update" in results:
        yield "\n| update of 16 runs, vocabulary 32 | tokens per run | gppo | erc-gppo | ratio | target |"
        yield "|---|---|---|---|---|---|"
        for name, r in results["update"].items():
            gated = r["variants"]["erc-gppo"]
            _, rows, steps = r["shape"]
            yield (
                f"| {name} | {rows * steps} | {r['variants']['gppo']['seconds'] * 1e3:.1f} ms | "
                f"{gated['seconds'] * 1e3:.1f} ms | {ratio(gated)} | {1 + TARGETS['update']:.2f} |"
            )
    if "head" in results:
        yield (
            "\n| head, vocabulary 151,936 | tokens | variant | own time | step | step / logp's | "
            "own / logp's |"
        )
        yield "|---|---|---|---|---|---|---|"
        for r in results["head"]:
            for name, s in r["step"].items():
                yield (
                    f"| {r['dtype']} | {r['tokens']} | {name} | {r['own'][name]['seconds']:.2f} s | "
                    f"{s['seconds']:.2f} s | {ratio(s)} | {ratio(r['own'][name])} |"
                )
        yield (
            f"\nTarget: step of logp + entropy + gate / step of logp <= {1 + TARGETS['head']:.2f}. "
            "Own time: logits to their gradient; the step adds the head's three products, in float32."
        )
        tokens = list(next(iter(results["memory"][0]["extra_megabytes"].values())))
        yield (
            "\n| memory beside logits and their gradient | logits | "
            + " | ".join(f"{n} tokens" for n in tokens)
            + " |"
        )
        yield "|---|---|" + "---|" * len(tokens)
        for r in results["memory"]:
            for name, extra in r["extra_megabytes"].items():
                cells = " | ".join(f"{extra[n]:,.0f} MB" for n in tokens)
                yield f"| {r['dtype']}, {name} | {r['logits_megabytes']:,.0f} MB | {cells} |"


def ratio(row: dict[str, float]) -> str:
    """Median and interval."""
    return f"{row['ratio']:.3f} [{row['ratio_low']:.3f}, {row['ratio_high']:.3f}]"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--parts", nargs="+", choices=["update", "head"], default=["update", "head"]
    )
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--repetitions", type=int, default=5, help="of each head step")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gate_cost.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"machine": machine(), "targets": TARGETS}
    if "update" in args.parts:
        results["update"] = {"trainer": trainer_update(), "without measures": bare_update()}
    if "head" in args.parts:
        dtypes = [getattr(torch, name) for name in args.dtypes]
        results["memory"] = [head_memory(dtype) for dtype in dtypes]
        results["head"] = [head(dtype, args.repetitions, args.tokens) for dtype in dtypes]
    print("\n".join(markdown(results)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
