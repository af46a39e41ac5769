"""Nothing in the source runs what a file says, and nothing a file says becomes markup."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    p
    for top in ("erc_bench", "envs", "paper_repro", "benchmarks", "erc_bench_pytest.py")
    for p in ([ROOT / top] if top.endswith(".py") else (ROOT / top).rglob("*.py"))
)
#: Modules whose way to read a file is to run what it says.
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "yaml",
    "code",
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
#: Calls by their last two names, with the value that an argument must have; None: never allowed.
CALLS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "joblib.load": None,
    "os.system": None,
    "os.popen": None,
    "pd.read_pickle": None,
    "pandas.read_pickle": None,
    "markupsafe.Markup": None,
    "xml.etree": None,
}


def name_of(call: ast.expr) -> str:
    return ast.unparse(call) if isinstance(call, ast.Name | ast.Attribute) else ""


#: Markup that holds no text from outside: the package's own files, and a drawing whose texts matplotlib
#: escapes (``tests/browser/test_report_page.py`` feeds it hostile names).
OURS = {
    "erc_bench/presentation/reporting/html.py": ("Markup(style)", "Markup(script)", "Markup(svg)")
}


def faults(text: str, ours: tuple[str, ...] = ()) -> list[str]:
    """Lines of a source that could run, or let through, what a file says."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
            found += [f"{node.lineno}: import {n}" for n in names if n.split(".")[0] in MODULES]
        if not isinstance(node, ast.Call) or ast.unparse(node) in ours:
            continue
        name, given = name_of(node.func), {k.arg: k.value for k in node.keywords}
        if name in BUILTINS or name in ("Markup", "builtins.eval", "builtins.exec"):
            found.append(f"{node.lineno}: {name}")
        if "shell" in given and ast.unparse(given["shell"]) != "False":
            found.append(f"{node.lineno}: {name} through a shell")
        if name in CALLS:
            wanted = CALLS[name]
            value = given.get(wanted[0]) if wanted else None
            if not (wanted and isinstance(value, ast.Constant) and value.value is wanted[1]):
                found.append(f"{node.lineno}: {name}")
        if name.endswith("Environment") and "loader" in given:
            auto = given.get("autoescape")
            if not (isinstance(auto, ast.Constant) and auto.value is True):
                found.append(f"{node.lineno}: templates that do not escape")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_source_runs_what_a_file_says(path):
    """No pickle, eval, exec, YAML, shell; torch and numpy load numbers only; templates escape."""
    assert not faults(path.read_text(), OURS.get(str(path.relative_to(ROOT)), ()))


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "from dill import load",
        "import a, yaml",
        "eval(x)",
        "exec(open(p).read())",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p)",
        "np.load(p, allow_pickle=True)",
        "joblib.load(p)",
        "subprocess.run(c, shell=True)",
        "os.system(c)",
        "pd.read_pickle(p)",
        "Markup(x)",
        "jinja2.Environment(loader=l)",
        "jinja2.Environment(loader=l, autoescape=False)",
    ],
)
def test_the_scan_finds_what_it_looks_for(planted):
    """It finds each kind of fault when it is planted."""
    assert faults(planted)


@pytest.mark.parametrize(
    "fine",
    [
        "torch.load(p, weights_only=True)",
        "np.load(p, allow_pickle=False)",
        "model.eval()",
        "ast.literal_eval(x)",
        "re.compile(x)",
        "jinja2.Environment(loader=l, autoescape=True)",
    ],
)
def test_the_scan_leaves_the_rest(fine):
    """It ignores what only looks like a fault."""
    assert not faults(fine)


def test_templates_mark_nothing_as_safe_that_a_file_could_hold():
    """Only figures and styles, which this package draws and writes itself, are put in unescaped."""
    safe = [
        line.strip()
        for path in (ROOT / "erc_bench").rglob("*.j2")
        for line in path.read_text().splitlines()
        if "| safe" in line or "|safe" in line
    ]
    for line in safe:
        assert any(word in line for word in ("svg", "css", "style", "script")), line


ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def test_markup_in_records_stays_text(finished, tmp_path, ends):
    """If every text of the manifest is an attack, the report holds it escaped or not at all."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    manifest = json.loads((out / "manifest.json").read_text())

    def poisoned(tree, at=""):
        if isinstance(tree, dict):
            return {k: poisoned(v, k) for k, v in tree.items()}
        if isinstance(tree, list):
            return [poisoned(v, at) for v in tree]
        return f"{tree}{ATTACK}" if isinstance(tree, str) and at != "kind" else tree

    (out / "manifest.json").write_text(json.dumps(poisoned(manifest)))
    assert ends("report", out)[0] == 0
    text = (out / "report.html").read_text()
    assert "<script>alert(1)" not in text
    assert "<img src=x" not in text
    assert "alert(1)" in text
