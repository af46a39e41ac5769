import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console

import erc_bench
from erc_bench.conformance import PROPERTIES, adapt, check
from erc_bench.conformance.profiles import PROFILES
from erc_bench.conformance.reports import as_table
from erc_bench.conformance.signatures import ALIASES
from erc_bench.conformance.sources import FORMS
from tools.docs_pages.conformance import page

ROOT = pathlib.Path(erc_bench.__file__).parents[1]
SOURCES = ("erc_bench", "envs", "erc_bench_pytest.py", "pyproject.toml", "README.md", "LICENSE")


def test_the_page_has_every_property():
    """In the overview, and as a section with its rule, its reason and an example of what it catches."""
    for name, found in PROPERTIES.items():
        assert f"| [`{name}`](#{name}) |" in page()
        section = page().partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for text in (found.rule, found.why, found.catches, found.mend, found.level):
            assert text in section


def test_the_page_has_every_signature():
    """Each name that an argument of a loss may have stands in the row of what it is given."""
    rows = {
        line.split("|")[1].strip(): line for line in page().splitlines() if line.startswith("| ")
    }
    counts = {"tokens": "tokens of the whole batch", "rows": "responses of the whole batch"}
    for alias, field in ALIASES.items():
        assert f"`{alias}`" in rows[counts.get(field, field)]
    assert all(f"`{name}`" in rows for name in (*FORMS, *PROFILES))


def test_the_tutorial_shows_what_is_printed():
    """For the loss that stands above the lines."""
    text = (ROOT / "docs/tutorials/ci-check.md").read_text()
    code = re.search(r"```python\n(def first_try.*?)```", text, re.DOTALL)[1]
    shown = re.search(r"```\n(objective:\n.*?)```", text, re.DOTALL)[1]
    space = {"torch": torch}
    exec(code, space)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(as_table(check(adapt(space["first_try"]))))
    printed = [line.rstrip() for line in console.export_text().splitlines()]
    for line in shown.splitlines():
        assert line in printed, line


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel and a copy of the template, installed together outside the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    (folder / "source").mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / "source")
    shutil.copytree(ROOT / "docs" / "template", folder / "mine", ignore=ignored)
    for source in ("./source", "./mine"):
        pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
        subprocess.run(
            [
                *pip,
                "wheel",
                "--no-deps",
                "--no-index",
                "--no-build-isolation",
                "-w",
                "wheels",
                source,
            ],
            cwd=folder,
            check=True,
        )
    wheels = [str(p) for p in (folder / "wheels").glob("*.whl")]
    assert len(wheels) == 2
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", "site", *wheels],
        cwd=folder,
        check=True,
    )
    return folder


def called(installed, *command):
    environment = {**os.environ, "PYTHONPATH": str(installed / "site"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=installed / "mine",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_tutorial_works_in_another_package(installed):
    """From wheels: its tests, the check with all three reports, pytest's option, the entry point."""
    code, out = called(
        installed,
        "-c",
        "import erc_bench, erc_bench_pytest as p, my_policy_loss as m\n"
        "print(erc_bench.__file__, p.__file__, m.__file__)",
    )
    assert code == 0, out
    assert out.count(str(installed / "site")) == 2, out
    assert out.count(str(installed / "mine")) == 1, out
    quiet = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
    code, out = called(installed, *quiet)
    assert code == 0, out
    assert "passed" in out
    code, out = called(
        installed, *quiet, "--erc-check", "my_policy_loss:my_loss", "-k", "micro_batches"
    )
    assert code == 0, out
    code, out = called(
        installed,
        "-m",
        "erc_bench",
        "check",
        "my_policy_loss:my_loss",
        "--seeds",
        "2",
        "--junit",
        "report/c.xml",
        "--json",
        "report/c.json",
        "--markdown",
        "report/c.md",
    )
    assert code == 0, out
    assert "failed" not in out
    assert "my_policy_loss:my_loss against dapo" in out
    suites = ElementTree.parse(installed / "mine/report/c.xml").getroot()
    assert sum(int(suite.get("tests")) for suite in suites) == len(PROPERTIES)
    assert (installed / "mine/report/c.md").read_text().startswith("## erc-bench check")
    code, out = called(installed, "-m", "erc_bench", "list", "objectives")
    assert code == 0, out
    assert "my-objective" in out
    assert "my-policy-loss" in out
