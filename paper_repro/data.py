"""Training and test sets in verl's Parquet form, from local files or, where asked, from the hub.

    python -m paper_repro.data train FILE_OR_NAME [--from-hub] --out data
    python -m paper_repro.data test aime24|...|all [FILE] [--from-hub] --out data

Rows of the result: ``data_source``, ``prompt`` (a conversation), ``reward_model`` (style and
``ground_truth``), ``extra_info`` and, for TRL, ``answer``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from erc_bench.core.errors import InputError
from erc_bench.core.storage import atomic_write
from erc_bench.core.validation import unknown

__all__ = ["BENCHMARKS", "PROBLEMS", "Problem", "normalised", "prepare", "problems", "rows"]

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
#: Names on the hub by benchmark. Nobody has tried them yet: check them where the hub can be reached.
BENCHMARKS = {
    "aime24": ("HuggingFaceH4/aime_2024", "train"),
    "aime25": ("yentinglin/aime_2025", "train"),
    "hmmt25": ("MathArena/hmmt_feb_2025", "train"),
    "math500": ("HuggingFaceH4/MATH-500", "test"),
    "amc23": ("math-ai/amc23", "test"),
}
#: How many problems each benchmark has.
PROBLEMS = {"aime24": 30, "aime25": 30, "hmmt25": 30, "math500": 500, "amc23": 40}
QUESTION = ("problem", "question", "prompt", "input")
ANSWER = ("answer", "ground_truth", "final_answer", "label")


@dataclass(frozen=True)
class Problem:
    """A question and its answer, as text."""

    question: str
    answer: str


def problems(records: Iterable[dict[str, Any]], source: str) -> Iterator[Problem]:
    """Question and answer of each record, whatever its columns are called.

    Raises:
        InputError: a record without one of them; names the record and its columns.
    """
    for place, record in enumerate(records, 1):
        question = _first(record, QUESTION)
        answer = _first(record, ANSWER)
        if answer is None and isinstance(record.get("reward_model"), dict):
            answer = record["reward_model"].get("ground_truth")
        if isinstance(answer, list) and len(answer) == 1:  # as in KlearReasoner-MathSub-30K's form
            answer = answer[0]
        if question is None or not isinstance(answer, str | int | float) or not str(answer).strip():
            raise InputError(
                f"data: {source}: record {place} has no question or no answer "
                f"(columns: {', '.join(map(str, record))})"
            )
        yield Problem(_text(question), str(answer).strip())


def _first(record: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[n] for n in names if record.get(n) is not None), None)


def _text(question: Any) -> str:
    """A question as text; of a conversation, its last user message."""
    if isinstance(question, str):
        return question.strip()
    messages = [m for m in question if isinstance(m, dict) and m.get("role") == "user"]
    if not messages:
        raise InputError("data: a conversation without a user message")
    return str(messages[-1]["content"]).replace(INSTRUCTION, "").strip()


def normalised(question: str) -> str:
    """The letters and digits of a question in lower case, which its copies share.

    >>> normalised("What is $1+1$?  ") == normalised("what is $1 + 1$")
    True
    """
    return re.sub(r"[^a-z0-9]+", "", question.lower().replace("+", "plus").replace("-", "minus"))


def prepare(
    found: Iterable[Problem], source: str, *, exclude: Iterable[str] = ()
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows without repeated questions and without those of ``exclude``, and how many were left out."""
    seen, tests = set(), {normalised(q) for q in exclude}
    kept: list[dict[str, Any]] = []
    counts = {"read": 0, "repeated": 0, "in a test set": 0}
    for problem in found:
        counts["read"] += 1
        key = normalised(problem.question)
        if key in tests:
            counts["in a test set"] += 1
        elif key in seen:
            counts["repeated"] += 1
        else:
            seen.add(key)
            kept.append(_row(problem, source, len(kept)))
    return kept, counts | {"kept": len(kept)}


def _row(problem: Problem, source: str, index: int) -> dict[str, Any]:
    return {
        "data_source": source,
        "prompt": [{"role": "user", "content": f"{problem.question}\n{INSTRUCTION}"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": {"index": index, "source": source},
        "answer": problem.answer,
    }


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a local Parquet, JSON or JSONL file.

    Raises:
        InputError: the file is missing, of another kind or damaged; names the line.
    """
    if not path.is_file():
        raise InputError(f"data: {path} is not a file; add --from-hub to download by name")
    if path.suffix == ".parquet":
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415

        try:
            for batch in pq.ParquetFile(path).iter_batches():
                yield from batch.to_pylist()
        except pa.ArrowException as error:
            raise InputError(f"data: {path} is damaged: {str(error).splitlines()[0]}") from None
        return
    if path.suffix not in (".json", ".jsonl"):
        raise InputError(f"data: {path}: must be .parquet, .json or .jsonl")
    for place, value in _values(path):
        for record in value if isinstance(value, list) else [value]:
            if not isinstance(record, dict):
                raise InputError(f"data: {path}: line {place} is not an object")
            yield record


def _values(path: Path) -> Iterator[tuple[int, Any]]:
    """JSON values with their lines. ``.json`` is used for one value and for one value a line."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".json":
        with suppress(ValueError):
            yield 1, json.loads(text)
            return
    for place, line in enumerate(text.split("\n"), 1):  # U+2028 may stand within a text
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError:
                raise InputError(f"data: {path}: line {place} is not JSON") from None
            yield place, value


def _hub(name: str, split: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset  # noqa: PLC0415

    try:
        yield from load_dataset(name, split=split)
    except Exception as error:  # whatever the hub's client raises
        raise InputError(f"data: {name} cannot be had from the hub ({error})") from None


def write(found: list[dict[str, Any]], path: Path) -> None:
    """Write records as Parquet, whole or not at all."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    table = pa.Table.from_pylist(found)
    atomic_write(path, lambda stream: pq.write_table(table, stream))


@dataclass(frozen=True)
class Prepare:
    """Prepare a training or a test set."""

    kind: tyro.conf.Positional[Literal["train", "test"]]
    """Which: a training set leaves out every question of the test sets already in --out."""
    name: tyro.conf.Positional[str]
    """train: a file, or with --from-hub a name; test: a benchmark, or all."""
    file: tyro.conf.Positional[Path | None] = None
    """test: a local file of that benchmark."""
    out: Path = Path("data")
    """Folder."""
    from_hub: bool = False
    """Download from the Hugging Face hub."""


def main(arguments: list[str] | None = None) -> None:
    """Command line of this module."""
    chosen = tyro.cli(Prepare, args=arguments, prog="python -m paper_repro.data")
    try:
        _run(chosen.kind, chosen.name, chosen.file, chosen.out, bool(chosen.from_hub))
    except InputError as error:
        print(f"paper_repro.data: {error}", file=sys.stderr)
        sys.exit(2)


def _run(kind: str, name: str, file: Path | None, out: Path, from_hub: bool) -> None:
    if kind == "train":
        known = [path for path in sorted(out.glob("*.parquet")) if path.stem in BENCHMARKS]
        tests = [p.question for path in known for p in problems(rows(path), str(path))]
        records = _hub(name, "train") if from_hub else rows(Path(name))
        _store(problems(records, name), Path(name).stem, out / "train.parquet", tests)
        return
    wanted = list(BENCHMARKS) if name == "all" else [name]
    for benchmark in wanted:
        if benchmark not in BENCHMARKS:
            raise unknown("test", benchmark, [*BENCHMARKS, "all"])
        if not from_hub and file is None:
            raise InputError(f"test: {benchmark} needs a file, or --from-hub")
        records = _hub(*BENCHMARKS[benchmark]) if from_hub else rows(file or Path())
        _store(problems(records, benchmark), benchmark, out / f"{benchmark}.parquet", ())


def _store(found: Iterable[Problem], source: str, path: Path, exclude: Iterable[str]) -> None:
    kept, counts = prepare(found, source, exclude=exclude)
    if not kept:
        raise InputError(f"data: {source} has no problem left")
    write(kept, path)
    print(f"{path}: {', '.join(f'{k} {v}' for k, v in counts.items())}")
    expected = PROBLEMS.get(path.stem, len(kept))
    if len(kept) != expected:
        print(
            f"paper_repro.data: {path.stem} has {expected} problems, not {len(kept)}: its scores "
            "will not be the benchmark's",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
