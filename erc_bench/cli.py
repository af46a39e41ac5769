"""The command line. Parses, calls :mod:`erc_bench.api`, prints; decides nothing else."""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Union

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from erc_bench.adapters.demos import commands_import, commands_llm, commands_sb3
from erc_bench.core.errors import InputError
from erc_bench.studies.request import Choices
from paper_repro import commands as repro

if TYPE_CHECKING:
    from rich.console import Console

    from erc_bench.conformance import PolicyLoss
    from erc_bench.conformance import Report as ConformanceReport
    from erc_bench.conformance.reports import Extra
    from erc_bench.studies.records import Results

__all__ = ["main"]

#: What `erc-bench run` does without a name: the three questions of the README.
DEMO = ("unsampled_shift", "forking_tokens", "entropy_null")


@dataclass(frozen=True)
class Run(Choices):
    """Train objectives on experiments, print a table, write records, figures and a report.

    Example: erc-bench run forking_tokens --objectives dapo erc-dapo --seeds 10 --out results/mine
    """

    experiments: Positional[tuple[str, ...]] = ()
    """Experiments by name (see: erc-bench list). None: all of them."""
    out: Path = Path("results/latest")
    """Results folder; must be new or empty, unless --resume."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """Change a training setting, as --set learning_rate=1e-3 (repeatable; see: erc-bench list settings)."""
    grid: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUES")] = ()
    """Train every arm at several values, as --grid learning_rate=1e-3,2e-3 --grid band=0.02,0.05."""
    resume: bool = False
    """Go on with an interrupted run in --out."""
    workers: int | None = None
    """Processes. None: one per processor. Records do not depend on it."""
    backend: Literal["loky", "ray"] = "loky"
    """Where the processes run: on this machine, or on a Ray cluster (pip install 'erc-bench[cluster]')."""
    report: bool = True
    """Write figures/ and report.html into --out."""
    verify: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Instead: run a finished folder once more, from its own configuration, and compare every run's
    digest with the stored one; 1 if one differs. Takes only --workers and --backend beside it."""

    def run(self) -> None:
        from erc_bench import api
        from erc_bench.analysis import as_rich, scores, scores_as_rich
        from erc_bench.studies import grid_axis, setting
        from erc_bench.training.memory import keep_freed_memory
        from erc_bench.training.native.library import variant

        keep_freed_memory()
        if self.verify is not None:
            self.run_again(self.verify)
            return
        results = api.run(
            *(self.experiments or (() if self.environment else DEMO)),
            **{choice.name: getattr(self, choice.name) for choice in fields(Choices)},
            settings=dict(map(setting, self.set)),
            grid=dict(map(grid_axis, self.grid)),
            out=self.out,
            resume=self.resume,
            workers=self.workers,
            backend=self.backend,
        )
        _console().print(as_rich(api.summary(results)))
        with suppress(LookupError):
            _console().print(scores_as_rich(scores(results)))
        print(f"records  {results.path}")
        if variant() is None:
            print("engine   torch; the native one takes a C compiler when erc-bench is installed")
        if self.report:
            drawn, page = api.present(results)
            pictures = sum(path.suffix == ".png" for path in drawn)
            print(f"figures  {results.path / 'figures'} ({pictures})")
            print(f"report   {page}")

    def run_again(self, folder: Path) -> None:
        """Compare a finished folder with what the same configuration gives now."""
        from erc_bench import api

        if replace(self, verify=None, workers=None, backend="loky") != Run():
            raise InputError(
                "verify: takes no option but --workers and --backend; the rest is what FOLDER was made from"
            )
        found = api.verify(folder, workers=self.workers, backend=self.backend)
        for line in found.damaged:
            print(f"damaged         {line}")
        for line in found.differing:
            print(f"not reproduced  {line}")
        if found.differing:
            for line in found.causes or ("no version and no machine differs; it is the code",):
                print(f"probable cause  {line}")
        if found.undigested:
            print(
                f"note            {found.undigested} runs have no stored digest (schema version 1): "
                "their rows were compared, a change since they were written cannot be told from one of "
                "the computation"
            )
        if not found.passed:
            sys.exit(1)
        print(f"verified        {found.runs} runs of {folder}, every digest equal")


@dataclass(frozen=True)
class List:
    """Show what there is: experiments, objectives, environments, settings."""

    what: Positional[Literal["all", "experiments", "objectives", "environments", "settings"]] = (
        "all"
    )
    """Which list."""

    def run(self) -> None:
        from erc_bench.presentation import listing

        console = _console()
        for name, table in listing.TABLES.items():
            if self.what in ("all", name):
                console.print(table())


@dataclass(frozen=True)
class Report:
    """Write one self-contained HTML file about finished runs."""

    results: Positional[Path]
    """Results folder."""
    out: Path | None = None
    """The file. None: report.html in the results folder."""

    def run(self) -> None:
        from erc_bench import api

        out = self.out or self.results / "report.html"
        with _writing(out):
            print(api.report(self.results, out))


@dataclass(frozen=True)
class Figures:
    """Draw the figures of finished runs as PNG and SVG, with the data drawn beside each.

    Example: erc-bench figures results/latest --out figures --data; erc-bench figures --from figures/data
    """

    results: Positional[Path | None] = None
    """Results folder."""
    source: Annotated[Path | None, arg(name="from", metavar="DATA")] = None
    """In place of a results folder: a data folder that an earlier --data wrote."""
    out: Path | None = None
    """Folder for the figures. None: figures in the results folder; with --from, the folder DATA is in."""
    data: bool = False
    """Write OUT/data too: the little of the records that the figures need, to make them again."""

    def run(self) -> None:
        from erc_bench import api
        from erc_bench.presentation.reporting import open_data

        if (self.results is None) == (self.source is None):
            raise InputError("figures: give either a results folder or --from DATA")
        source: Results | Path
        if self.results is not None:
            source, default = self.results, self.results / "figures"
        else:
            assert self.source is not None
            source, default = open_data(self.source), self.source.resolve().parent
        out = self.out or default
        with _writing(out):
            for path in api.figures(source, out, data=self.data):
                print(path)


@dataclass(frozen=True)
class Claims:
    """Put finished runs to the pre-registered claims: verdicts with intervals, and what is missing.

    Example: erc-bench claims results/full --markdown claims.md
    """

    results: Positional[Path]
    """Results folder."""
    json: Path | None = None
    """Write every verdict and row as JSON."""
    markdown: Path | None = None
    """Write them as Markdown."""

    def run(self) -> None:
        from erc_bench import api
        from erc_bench.analysis.claims import as_data, claims_markdown, claims_rich

        found = api.claims(self.results)
        _console().print(claims_rich(found))
        data = as_data(found, self.results / "figures")
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        _write({self.json: text, self.markdown: claims_markdown(found)})


@dataclass(frozen=True)
class Check:
    """Put policy losses through the conformance suite; imports and runs the code it is given.

    Example: erc-bench check my_package.losses:my_loss --set clip=0.2 --junit results.xml
    """

    losses: Annotated[Positional[tuple[str, ...]], arg(metavar="LOSS [LOSS ...]")]
    """Each a recipe (see: erc-bench list objectives), module:function, or path/to/file.py:function."""
    like: str | None = None
    """Call the losses as a framework does: verl, trl, openrlhf, skyrl, slime, prime-rl, areal, nemo-rl,
    roll, torchrl, tinker. None: by the names of their parameters."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """An argument of the loss, a part of one (config.eps_clip_low=0.2), or a parameter of the recipe."""
    bind: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=FIELD")] = ()
    """What a parameter is given, as --bind prev_logprobs=old_logp; a form may follow, as old_logp:packed."""
    waive: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=REASON")] = ()
    """A property that may fail, and why, as --waive padding_rows="TRL divides by all rows"."""
    strict: bool = False
    """Exit with 1 where a rule of robustness is broken, too."""
    aggregate: Literal["token-mean", "sequence-mean", "sequence-sum"] = "token-mean"
    """How a loss per token is reduced; not used where the function returns a number."""
    band: tuple[float, float] | None = None
    """Half-widths, low and high, of the entropy-ratio band the loss should have. None: its parameters'."""
    clip: tuple[float, float] | None = None
    """How far below and above 1 the loss should clip the ratio. None: as its parameters say."""
    baseline: str = "dapo"
    """Objective that the loss is trained against on the smoke tier."""
    drift: bool = True
    """Train and compare drift and reward with the baseline, after the properties."""
    seeds: int = 10
    """Paired seeds of that comparison."""
    json: Path | None = None
    """Write everything as JSON: one object, or a list of them for several losses."""
    junit: Path | None = None
    """Write JUnit XML, a suite per loss and level, one test case per property."""
    markdown: Path | None = None
    """Write Markdown, as for a CI job's summary."""
    traceback: bool = False
    """Show where in the loss's code an import or a call failed."""

    def run(self) -> None:
        from erc_bench.conformance import check, load_loss, reports
        from erc_bench.conformance.checking import require_properties
        from erc_bench.conformance.loading import names_code, pairs, value
        from erc_bench.studies.arms import parse

        waivers = pairs("waive", self.waive)
        require_properties(waivers, by="waive")
        options = {name: value(text) for name, text in pairs("set", self.set).items()}
        binds = pairs("bind", self.bind)
        parse(self.baseline)
        if not self.losses:
            raise InputError("check: name a loss: a recipe, module:function or file.py:function")
        if self.drift and self.seeds < 2:
            raise InputError(f"seeds: {self.seeds} is not allowed; must be at least 2")
        done: list[tuple[ConformanceReport, Extra | None]] = []
        console = _console()
        for spec in self.losses:
            if names_code(spec):
                _tell(f"importing and running the code of {spec} (in {Path.cwd()})")
            loss = load_loss(
                spec,
                options=options,
                binds=binds,
                like=self.like,
                aggregate=self.aggregate,
                band=self.band,
                clip=self.clip,
            )
            report = check(loss, waive=waivers, strict=self.strict)
            console.print(reports.as_table(report))
            self.write([*done, (report, None)])  # the training below may be interrupted
            extra = self.compared(loss, report)
            done.append((report, extra))
            if extra is not None:
                self.write(done)
                console.print()
                console.print(reports.extra_table(extra))
                console.print(extra.note, style="dim", highlight=False, markup=False)
        for report, _ in done:
            names = [r.property.name for r in report.results if report.decides(r)]
            if names:
                _tell(
                    f"{report.loss}: {len(names)} {'rules are' if len(names) > 1 else 'rule is'} broken; "
                    f'where that is meant: --waive {names[0]}="the reason"'
                )
            elif fragile := report.count("failed", "robustness"):
                _tell(f"{report.loss}: robustness: {fragile} broken; they count with --strict")
        if not all(report.passed for report, _ in done):
            sys.exit(1)

    def write(self, done: Sequence[tuple[ConformanceReport, Extra | None]]) -> None:
        """Write the files that were asked for."""
        from erc_bench.conformance import reports

        _write(
            {
                self.json: reports.as_json(*done),
                self.junit: reports.as_junit(*(report for report, _ in done)),
                self.markdown: "\n".join(reports.as_markdown(*one) for one in done),
            }
        )

    def compared(self, loss: PolicyLoss, report: ConformanceReport) -> Extra | None:
        """The comparison with the baseline, unless it is not wanted or has nothing to compare."""
        broken = {r.property.name for r in report.results if r.status == "failed"}
        reasons = {
            "--no-drift": not self.drift,
            f"{loss.name} is the baseline": loss.name == self.baseline and not self.set,
            "there is nothing to train with": broken & {"scalar_finite_loss", "gradient_exists"},
        }
        why = next((reason for reason, holds in reasons.items() if holds), None)
        if why is not None:
            _tell(f"no drift comparison ({why})")
            return None
        from rich.console import Console
        from rich.progress import Progress

        from erc_bench.analysis.comparison import as_extra, compare, total_rollouts

        with Progress(console=Console(file=sys.stderr), transient=True) as bar:
            task = bar.add_task("training", total=total_rollouts())

            def on_rollout(name: str) -> None:
                bar.update(task, advance=1, description=f"training: {name}")

            return as_extra(compare(loss, self.baseline, seeds=self.seeds, on_rollout=on_rollout))


@dataclass(frozen=True)
class Llm:
    """Language models: train one on this machine under our objectives, or import logs of others."""

    what: commands_llm.Demo | commands_import.Import

    def run(self) -> None:
        self.what.run()


@dataclass(frozen=True)
class Sb3:
    """Stable-baselines3: PPO with and without the entropy-ratio band."""

    what: commands_sb3.Demo | commands_sb3.Redraw

    def run(self) -> None:
        self.what.run()


@dataclass(frozen=True)
class Repro:
    """The paper's runs on verl or TRL: what to run, whether it is configured right, what came out."""

    what: repro.Plan | repro.Validate | repro.Compare

    def run(self) -> None:
        self.what.run()


@dataclass(frozen=True)
class Explain:
    """Open the teaching page: one policy update to drag, with exact numbers, and a lesson. Offline.

    Example: erc-bench explain --preset swap
    """

    out: Path | None = None
    """Write the page here instead of opening it from the user's cache."""
    preset: str | None = None
    """Start from this state, as hidden, shared, stuck or swap. None: the lesson's first step."""
    open: bool | None = None
    """Open it in the browser. None: unless --out is given."""

    def run(self) -> None:
        import webbrowser

        from erc_bench.core.storage import cache_folder
        from erc_bench.presentation.explain import FIRST, write

        out = self.out or cache_folder() / "explain.html"
        with _writing(out):
            page = write(out, self.preset or FIRST).resolve()
        print(page)
        wanted = self.out is None if self.open is None else self.open
        if wanted and not webbrowser.open(page.as_uri()):
            _tell("no browser found; open the file in one")


# A `Union`, because tyro 0.9 does not take `Run | List` where it expects a type.
Command = Union[Run, List, Report, Figures, Claims, Check, Explain, Llm, Sb3, Repro]  # noqa: UP007
#: Commands that can be interrupted and taken up again with --resume.
RESUMABLE = (Run, commands_llm.Demo, commands_sb3.Demo)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 on a failed check, 2 on bad input, 130 when interrupted."""
    # A tenth of a short command was the collector's: imported modules stay, and it went through them
    # after every 700 new objects.
    gc.set_threshold(50_000, 20, 20)
    command: Command = tyro.cli(
        Command,
        prog="erc-bench",
        description="Did the policy update stay in its trust region?",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    try:
        command.run()
    except InputError as error:
        if isinstance(command, Check) and command.traceback:
            traceback.print_exception(error)
        _tell(" ".join(str(error).split()))
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output, as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno is None:  # not an error of the operating system, such as a full disk
            raise
        place = f"{error.filename}: " if error.filename else ""
        _tell(f"{place}{error.strerror}")
        sys.exit(2)
    except KeyboardInterrupt:
        resumable = isinstance(getattr(command, "what", command), RESUMABLE)
        _tell(f"interrupted{' (go on with the same command and --resume)' if resumable else ''}")
        sys.exit(130)


def _tell(message: str) -> None:
    print(f"erc-bench: {message}", file=sys.stderr)


def _console() -> Console:
    """Standard output; wide enough for the tables where it is not a terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)


def _write(texts: Mapping[Path | None, str]) -> None:
    """Write each text into its file, where one was named."""
    for path, text in texts.items():
        if path is not None:
            with _writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Report an output that cannot be written as bad input: the caller can choose another place."""
    try:
        yield
    except OSError as error:
        raise InputError(f"out: {out} cannot be written to ({error.strerror or error})") from None
