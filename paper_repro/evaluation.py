"""avg@n and pass@k of a checkpoint: generate with vLLM or transformers, judge, average with intervals.

    python -m paper_repro.evaluation generate CHECKPOINT DATA --out generations.jsonl
    python -m paper_repro.evaluation score generations.jsonl --out evaluation.json

A line of generations: ``benchmark``, ``problem`` (index), ``answer``, ``responses`` (texts).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from erc_bench.errors import InputError
from erc_bench.records import atomic_write
from erc_bench.statistics.pass_at_k import pass_at_k_estimate
from paper_repro.data import BENCHMARKS, rows
from paper_repro.reward import compute_score

__all__ = ["Sampling", "generate", "read_generations", "score"]


@dataclass(frozen=True)
class Sampling:
    """How the paper samples for its evaluation.

    Attributes:
        samples: responses to each problem.
        temperature: of sampling.
        top_p: of sampling.
        length: most tokens of a response.
    """

    samples: int = 32
    temperature: float = 0.6
    top_p: float = 0.95
    length: int = 32_768

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("length", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: {getattr(self, name)} is not allowed; at least {least}")
        if not self.temperature > 0:
            raise InputError(f"temperature: {self.temperature} is not allowed; must be positive")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p: {self.top_p} is not allowed; must be in (0, 1]")


def generate(
    model: str,
    data: Path,
    out: Path,
    sampling: Sampling,
    engine: Literal["auto", "vllm", "hf"] = "auto",
) -> None:
    """Sample responses to every benchmark found in ``data``; go on after what ``out`` already holds.

    Raises:
        InputError: no benchmark there, or an engine that is not installed.
    """
    sets = {name: data / f"{name}.parquet" for name in BENCHMARKS}
    work = [
        (name, index, row)
        for name, path in sets.items() if path.is_file()
        for index, row in enumerate(rows(path))
    ]  # fmt: skip
    if not work:
        raise InputError(f"data: {data} holds none of {', '.join(f'{n}.parquet' for n in sets)}")
    if engine == "auto":
        engine = "vllm" if find_spec("vllm") else "hf"
    if find_spec({"vllm": "vllm", "hf": "transformers"}[engine]) is None:
        raise InputError(f"engine: {engine} is not installed")
    done = (
        {(g["benchmark"], g["problem"]) for g in read_generations(out)} if out.is_file() else set()
    )
    left = [w for w in work if w[:2] not in done]
    answer = _vllm(model, sampling) if engine == "vllm" else _transformers(model, sampling)
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as stream:
        for name, index, row in track(left, "generating", console=Console(file=sys.stderr)):
            entry = {
                "benchmark": name, "problem": index, "answer": row["answer"],
                "responses": answer(row["prompt"]),
            }  # fmt: skip
            stream.write(json.dumps(entry) + "\n")
            stream.flush()


def _vllm(model: str, sampling: Sampling) -> Any:
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]  # noqa: PLC0415

    engine = LLM(model, max_model_len=sampling.length + 4096)
    how = SamplingParams(
        n=sampling.samples, temperature=sampling.temperature, top_p=sampling.top_p,
        max_tokens=sampling.length,
    )  # fmt: skip
    return lambda prompt: [o.text for o in engine.chat(prompt, how, use_tqdm=False)[0].outputs]


def _transformers(model: str, sampling: Sampling) -> Any:
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
    network.to("cuda" if torch.cuda.is_available() else "cpu")

    @torch.no_grad()
    def answer(prompt: Any) -> list[str]:
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False).to(network.device)
        made = network.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=True,
            temperature=sampling.temperature, top_p=sampling.top_p, top_k=0,
            max_new_tokens=sampling.length, num_return_sequences=sampling.samples,
        )  # fmt: skip
        said = made[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = tokenizer.batch_decode(said, skip_special_tokens=True)
        return texts

    return answer


def read_generations(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a file of generations.

    Raises:
        InputError: a line that is none; names it.
    """
    kinds = {"benchmark": str, "problem": int, "answer": str, "responses": list}
    for place, entry in enumerate(rows(path), 1):
        for key, kind in kinds.items():
            if not isinstance(entry.get(key), kind):
                raise InputError(
                    f"generations: {path}: line {place}: {key} must be {kind.__name__}"
                )
        if not entry["responses"] or not all(isinstance(r, str) for r in entry["responses"]):
            raise InputError(f"generations: {path}: line {place}: responses must be texts")
        yield entry


def score(generations: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Per benchmark avg@n and pass@k in percent, with 95 % bootstrap intervals over its problems.

    Returns:
        ``benchmarks`` to ``problems``, ``samples``, ``avg``, ``low``, ``high``, ``pass@k`` (k = 1, 2, 4,
        ... up to n) and ``judge_failed``: responses whose judging failed, counted as wrong.

    Raises:
        InputError: problems of one benchmark with different numbers of responses, or one twice.
    """
    found: dict[str, dict[int, list[dict[str, float]]]] = {}
    for entry in generations:
        here = found.setdefault(entry["benchmark"], {})
        if entry["problem"] in here:
            raise InputError(
                f"generations: {entry['benchmark']} has problem {entry['problem']} twice"
            )
        here[entry["problem"]] = [
            compute_score(entry["benchmark"], text, entry["answer"]) for text in entry["responses"]
        ]
    if not found:
        raise InputError("generations: none")
    return {"benchmarks": {name: _benchmark(name, judged) for name, judged in found.items()}}


def _benchmark(name: str, judged: dict[int, list[dict[str, float]]]) -> dict[str, Any]:
    counts = {len(one) for one in judged.values()}
    if len(counts) != 1:
        raise InputError(f"generations: {name} has problems with {sorted(counts)} responses")
    samples = counts.pop()
    correct = np.array([[sum(r["acc"] for r in one) for one in judged.values()]])
    powers = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    by_k = {k: pass_at_k_estimate(correct, samples, k, over="prompts") for k in powers}
    mean = by_k[1]  # pass@1 is avg@n
    return {
        "problems": len(judged), "samples": samples, "avg": 100 * mean.value,
        "low": 100 * mean.low, "high": 100 * mean.high,
        "pass@k": {str(k): [100 * e.value, 100 * e.low, 100 * e.high] for k, e in by_k.items()},
        "judge_failed": int(sum(r["judge_failed"] for one in judged.values() for r in one)),
    }  # fmt: skip


@dataclass(frozen=True)
class Generate:
    """Sample responses of a checkpoint to the benchmarks in a folder."""

    model: tyro.conf.Positional[str]
    """Checkpoint, as transformers or vLLM load it."""
    data: tyro.conf.Positional[Path]
    """Folder of `python -m paper_repro.data test`."""
    out: Path = Path("generations.jsonl")
    """File; an interrupted one is gone on with."""
    samples: int = 32
    """Responses per problem."""
    length: int = 32_768
    """Most tokens of a response."""
    engine: Literal["auto", "vllm", "hf"] = "auto"
    """What generates."""


@dataclass(frozen=True)
class Score:
    """Judge generations."""

    generations: tyro.conf.Positional[Path]
    """File."""
    out: Path = Path("evaluation.json")
    """File."""


def main(arguments: list[str] | None = None) -> None:
    """Command line of this module."""
    command: Generate | Score = tyro.extras.subcommand_cli_from_dict(
        {"generate": Generate, "score": Score},
        args=arguments,
        prog="python -m paper_repro.evaluation",
    )
    try:
        if isinstance(command, Generate):
            sampling = Sampling(command.samples, length=command.length)
            generate(command.model, command.data, command.out, sampling, command.engine)
        else:
            found = score(read_generations(command.generations))
            text = json.dumps(found, indent=1) + "\n"
            atomic_write(command.out, lambda stream: stream.write(text.encode()))
            for name, one in found["benchmarks"].items():
                print(
                    f"{name}: avg@{one['samples']} {one['avg']:.1f} ({one['low']:.1f} to "
                    f"{one['high']:.1f}), {one['problems']} problems"
                )
    except InputError as error:
        print(f"paper_repro.evaluation: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
