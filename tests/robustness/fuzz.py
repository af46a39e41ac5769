"""Coverage-guided fuzzing of what reads foreign bytes; needs ``erc-bench[fuzz]`` and is not part of CI.

``PYTHONPATH=tests python -m robustness.fuzz trl -max_total_time=300`` (any option of libFuzzer).
Anything but an InputError stops it, with the input in a file ``crash-...``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

with atheris.instrument_imports(include=["erc_bench", "paper_repro", "json"]):
    from erc_bench.adapters.logs import read_tensorboard, read_trl, read_verl
    from erc_bench.conformance.loading import pairs, value
    from erc_bench.core.errors import InputError
    from erc_bench.core.storage import read_object
    from erc_bench.studies import grid_axis, plan, setting
    from erc_bench.studies.records import Results
    from paper_repro.evaluation import read_generations
    from paper_repro.targets import targets

PLACE = Path(tempfile.mkdtemp())
TAGS = ["train/reward", "train/grad_norm", "train/", "critic/score/mean", "actor/entropy", ""]


def _file(name: str, data: bytes) -> Path:
    (PLACE / name).write_bytes(data)
    return PLACE / name


def _texts(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for parse in (setting, grid_axis, value, lambda t: pairs("set", [t])):
        try:
            parse(text)
        except InputError:
            continue
    plan(["forking_tokens"], objectives=[text])


def _manifest(data: bytes) -> None:
    Results.open(_file("manifest.json", data).parent)


def _events(data: bytes) -> None:
    """Whole records, with their checksums, of any tags, steps, values and dtypes."""
    draw = atheris.FuzzedDataProvider(data)
    path = PLACE / "events.out.tfevents.1"
    with path.open("wb") as stream:
        records = RecordWriter(stream)
        while draw.remaining_bytes():
            value = Summary.Value(
                tag=draw.PickValueInList(TAGS) + draw.ConsumeUnicodeNoSurrogates(1)
            )
            if draw.ConsumeBool():
                value.simple_value = draw.ConsumeFloat()
            else:
                value.metadata.plugin_data.plugin_name = "scalars"
                value.metadata.data_class = draw.ConsumeIntInRange(0, 3)
                value.tensor.dtype = draw.ConsumeIntInRange(0, 23)
                value.tensor.tensor_content = draw.ConsumeBytes(8)
            event = Event(step=draw.ConsumeInt(8), summary=Summary(value=[value]))
            records.write(event.SerializeToString())
    read_tensorboard(path)


TARGETS = {
    "events": _events,
    "trl": lambda d: read_trl(_file("trainer_state.json", d)),
    "verl": lambda d: read_verl(_file("log.jsonl", d)),
    "texts": _texts,
    "manifest": _manifest,
    "settings": lambda d: read_object(_file("settings.json", d), "resume"),
    "generations": lambda d: list(read_generations(_file("g.jsonl", d))),
    "targets": lambda d: targets(_file("t.toml", d)),
}


def main() -> None:
    """The command line: a target, then libFuzzer's own options."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"target: one of {', '.join(TARGETS)}")
    read = TARGETS[sys.argv.pop(1)]

    def one(data: bytes) -> None:
        try:
            read(data)
        except InputError:
            return

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
