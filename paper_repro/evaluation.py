"""avg@n and pass@k of a checkpoint: generate with vLLM or transformers, judge, average with intervals.

    python -m paper_repro.evaluation generate CHECKPOINT DATA --out generations.jsonl
    python -m paper_repro.evaluation score generations.jsonl --out evaluation.json

A line of generations: ``benchmark``, ``problem`` (index), ``answer``, ``responses`` (texts).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import tyro
from pydantic import Field

from erc_bench.analysis.statistics import Estimate, pass_at_k, stratified_mean
from erc_bench.core.errors import InputError
from erc_bench.core.storage import write_json
from erc_bench.core.validation import Count, Positive, Size, checked, checked_dataclass
from paper_repro.data import BENCHMARKS, rows
from paper_repro.programs import run_program
from paper_repro.reward import compute_score

__all__ = ["Sampling", "generate", "read_generations", "score"]


@checked_dataclass
class Sampling:
    """How the paper samples for its evaluation.

    Attributes:
        samples: responses to each problem.
        temperature: of sampling.
        top_p: of sampling.
        length: the most tokens a response may have.
        seed: decides every draw of an engine, together with benchmark and problem.
    """

    samples: Count = 32
    temperature: Positive = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    length: Count = 32_768
    seed: Size = 0


@checked_dataclass
class Generation:
    """What a line of generations must have: the responses to one problem of a benchmark."""

    benchmark: str
    problem: int
    answer: str
    responses: Annotated[tuple[str, ...], Field(min_length=1)]


def generate(
    model: str,
    data: Path,
    out: Path,
    sampling: Sampling,
    engine: Literal["auto", "vllm", "hf"] = "auto",
) -> None:
    """Sample responses to every benchmark found in ``data``, after those that ``out`` already holds.

    Raises:
        InputError: no benchmark there, or an engine that is not installed.
    """
    sets = {name: data / f"{name}.parquet" for name in BENCHMARKS}
    present = {name: path for name, path in sets.items() if path.is_file()}
    work = [
        (name, index, row) for name, path in present.items() for index, row in enumerate(rows(path))
    ]
    if not work:
        raise InputError(f"data: {data} holds none of {', '.join(f'{n}.parquet' for n in sets)}")
    if engine == "auto":
        engine = "vllm" if find_spec("vllm") else "hf"
    if find_spec({"vllm": "vllm", "hf": "transformers"}[engine]) is None:
        raise InputError(f"engine: {engine} is not installed")
    done = set()
    if out.is_file():
        _drop_torn_line(out)
        done = {(g["benchmark"], g["problem"]) for g in read_generations(out)}
    left = [w for w in work if w[:2] not in done]
    if not left:
        return
    # vLLM schedules its own batches and is fastest with many problems at once.
    answer, at_once = (
        (_vllm(model, sampling), 32) if engine == "vllm" else (_transformers(model, sampling), 1)
    )
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    out.parent.mkdir(parents=True, exist_ok=True)
    chunks = [left[i : i + at_once] for i in range(0, len(left), at_once)]
    with out.open("a", encoding="utf-8") as stream:
        for chunk in track(chunks, "generating", console=Console(file=sys.stderr)):
            seeds = [_seed(sampling.seed, name, index) for name, index, _ in chunk]
            responses = answer([row["prompt"] for *_, row in chunk], seeds)
            for (name, index, row), said in zip(chunk, responses, strict=True):
                entry = Generation(name, index, row["answer"], tuple(said))
                stream.write(json.dumps(asdict(entry)) + "\n")
            stream.flush()


def _drop_torn_line(path: Path) -> None:
    """Cut off what an interrupted process wrote after the last whole line."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        with path.open("r+b") as stream:
            stream.truncate(whole)


def _seed(seed: int, benchmark: str, problem: int) -> int:
    """The seed of one problem's draws, which does not depend on what was generated before it."""
    spread = np.random.SeedSequence([seed, *benchmark.encode(), problem])
    return int(spread.generate_state(1)[0])


#: From prompts, and a seed for each, to the responses to each.
Answers = Callable[[Sequence[Any], Sequence[int]], list[list[str]]]


def _vllm(model: str, sampling: Sampling) -> Answers:
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]  # noqa: PLC0415

    engine = LLM(model, max_model_len=sampling.length + 4096)

    def answer(prompts: Sequence[Any], seeds: Sequence[int]) -> list[list[str]]:
        shared: dict[str, Any] = {"n": sampling.samples, "max_tokens": sampling.length}
        shared |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        how = [SamplingParams(seed=seed, **shared) for seed in seeds]
        made = engine.chat(list(prompts), how, use_tqdm=False)
        return [[output.text for output in one.outputs] for one in made]

    return answer


def _transformers(model: str, sampling: Sampling) -> Answers:
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    from erc_bench.adapters.demos.llm.models import Loaded  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    network = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
    loaded = Loaded(network.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer)
    how = {"temperature": sampling.temperature, "top_p": sampling.top_p}

    def one(prompt: Any, seed: int) -> list[str]:
        torch.manual_seed(seed)
        made = loaded.sample([prompt], sampling.length, sampling.samples, **how)
        texts: list[str] = tokenizer.batch_decode(made.responses, skip_special_tokens=True)
        return texts

    def answer(prompts: Sequence[Any], seeds: Sequence[int]) -> list[list[str]]:
        return [one(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    return answer


def read_generations(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a file of generations.

    Raises:
        InputError: a line that is not a generation; names it.
    """
    needed = {f.name for f in fields(Generation)}
    for place, entry in enumerate(rows(path), 1):
        own = {name: value for name, value in entry.items() if name in needed}
        checked(Generation, own, at=f"generations: {path}: line {place}: ")
        yield entry


def score(generations: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Per benchmark avg@n and pass@k in percent, with 95 % bootstrap intervals over its problems.

    Returns:
        ``benchmarks`` to ``problems``, ``samples``, ``avg``, ``low``, ``high``, ``pass@k`` (k = 1, 2, 4,
        ... up to n), ``correct`` (right answers of each problem) and ``judge_failed``: responses whose
        judging failed, counted as wrong.

    Raises:
        InputError: problems of one benchmark with different numbers of responses, or one twice.
    """
    rows = []
    with ThreadPoolExecutor(4) as pool:  # the judges are processes
        for entry in generations:
            said = entry["responses"]
            judged = [*pool.map(compute_score, repeat(""), said, repeat(entry["answer"]))]
            right, failed = (sum(one[key] for one in judged) for key in ("acc", "judge_failed"))
            rows.append((entry["benchmark"], entry["problem"], len(said), int(right), int(failed)))
    if not rows:
        raise InputError("generations: none")
    table = pd.DataFrame(rows, columns=["benchmark", "problem", "samples", "correct", "failed"])
    parts = table.groupby("benchmark", sort=False)
    return {"benchmarks": {name: _benchmark(name, part) for name, part in parts}}


def _benchmark(name: str, judged: pd.DataFrame) -> dict[str, Any]:
    twice = judged.loc[judged["problem"].duplicated(), "problem"]
    if len(twice):
        raise InputError(f"generations: {name} has problem {twice.iloc[0]} twice")
    samples, *others = sorted(set(judged["samples"].tolist()))
    if others:
        raise InputError(f"generations: {name} has problems with {[samples, *others]} responses")
    correct = judged["correct"].to_numpy(dtype=float)
    powers = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    by_k = {k: stratified_mean([pass_at_k(correct, samples, k)]) for k in powers}
    mean = by_k[1]  # pass@1 is avg@n
    return {
        "problems": len(judged),
        "samples": samples,
        **dict(zip(("avg", "low", "high"), _percent(mean), strict=True)),
        "pass@k": {str(k): _percent(estimate) for k, estimate in by_k.items()},
        "correct": dict(
            zip(judged["problem"].astype(str), judged["correct"].tolist(), strict=True)
        ),
        "judge_failed": int(judged["failed"].sum()),
    }


def _percent(estimate: Estimate) -> list[float | None]:
    """Value and ends of the interval in percent; None where a single problem gives no interval."""
    ends = (estimate.value, estimate.low, estimate.high)
    return [100 * end if math.isfinite(end) else None for end in ends]


@dataclass(frozen=True)
class Generate:
    """Sample responses of a checkpoint to the benchmarks in a folder."""

    model: tyro.conf.Positional[str]
    """Checkpoint, as transformers or vLLM load it."""
    data: tyro.conf.Positional[Path]
    """Folder of `python -m paper_repro.data test`."""
    out: Path = Path("generations.jsonl")
    """File; an interrupted one is continued."""
    samples: int = 32
    """Responses per problem."""
    length: int = 32_768
    """The most tokens a response may have."""
    engine: Literal["auto", "vllm", "hf"] = "auto"
    """The inference engine."""
    seed: int = 0
    """Decides every draw of an engine."""

    def run(self) -> None:
        """Generate what is not in the file yet."""
        sampling = Sampling(self.samples, length=self.length, seed=self.seed)
        generate(self.model, self.data, self.out, sampling, self.engine)


@dataclass(frozen=True)
class Score:
    """Judge generations."""

    generations: tyro.conf.Positional[Path]
    """File of generations."""
    out: Path = Path("evaluation.json")
    """File to write."""

    def run(self) -> None:
        """Judge, write the file, and print a line for each benchmark."""
        found = score(read_generations(self.generations))
        write_json(self.out, found)
        for name, one in found["benchmarks"].items():
            ends = "" if one["low"] is None else f" ({one['low']:.1f} to {one['high']:.1f})"
            failed = f", {one['judge_failed']} not judged" if one["judge_failed"] else ""
            print(
                f"{name}: avg@{one['samples']} {one['avg']:.1f}{ends}, "
                f"{one['problems']} problems{failed}"
            )


def main(arguments: list[str] | None = None) -> None:
    """Command line of this module."""
    run_program("evaluation", Generate | Score, arguments)


if __name__ == "__main__":
    main()
