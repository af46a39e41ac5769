"""Every command and Python block of the documents works, or is listed with the reason why it is not run."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from docs_site.documents import DOCUMENTS, ROOT, commands, python_blocks
from docs_site.how_run import AS_IT_IS, ELSEWHERE, NO_BLOCK, NOT_HERE, SHRUNK, SMALL, SMALLER

from erc_bench import TokenBatch
from erc_bench.cli import main
from erc_bench.objectives import RECIPES, make
from tools.docs_pages.objectives import objective_page

FOUND = {name: commands(text) for name, text in DOCUMENTS.items()}
BLOCKS = {name: python_blocks(text) for name, text in DOCUMENTS.items()}
LOSS = '''
import torch


def my_loss(logp, old_logp, advantages, mask, clip=0.2, tau=1.0):
    """PPO-clip over all tokens."""
    advantages, old_logp = advantages.detach(), old_logp.detach()
    log_ratio = torch.where(mask.bool(), logp - old_logp, 0.0).clamp(-10, 10) / tau
    ratio = log_ratio.exp()
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return torch.where(mask.bool(), loss, 0.0).sum() / mask.sum().clamp(min=1)


def renamed_loss(logp, before, advantages, mask):
    return my_loss(logp, before, advantages, mask)


def configured_loss(logp, old_logp, advantages, mask, config):
    assert config.low < config.high
    return my_loss(logp, old_logp, advantages, mask)


def skyrl_loss(log_probs, old_log_probs, advantages, config, loss_mask, rollout_logprobs):
    ratio = (log_probs - old_log_probs).exp()
    bounded = ratio.clamp(1 - config.eps_clip_low, 1 + config.eps_clip_high)
    return -(torch.minimum(ratio * advantages, bounded * advantages) * loss_mask).sum(), {}
'''


def executed(document: str) -> list[str]:
    return [c for c in FOUND[document] if c not in NOT_HERE and (document, c) not in ELSEWHERE]


def argv(command: str) -> list[str]:
    """As :mod:`docs_site.how_run` says."""
    words = shlex.split(command)
    if words[:2] == ["erc-bench", "check"] and not {"--baseline", "--no-drift"} & set(words):
        return [*words, "--no-drift"]
    if words[:2] != ["erc-bench", "run"] or "--verify" in words:
        return words + SHRUNK.get(command, [])
    for option in ("--tier", "--seeds"):
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    return words + SMALL


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with what the documents take for granted: a package of the reader's, logs, the gallery."""
    shutil.copytree(ROOT / "figures", tmp_path / "figures")
    for file in (ROOT / "docs" / "template").rglob("*.py"):
        place = tmp_path / file.relative_to(ROOT / "docs" / "template")
        place.parent.mkdir(exist_ok=True)
        shutil.copy(file, place)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    (tmp_path / "my_package" / "losses.py").write_text(LOSS)
    logs = ROOT / "tests" / "adapters" / "data"
    shutil.copy(logs / "verl_erc-dapo.jsonl", tmp_path / "verl.jsonl")
    shutil.copy(logs / "trl_trainer_state.json", tmp_path)
    (tmp_path / "trl_trainer_state.json").rename(tmp_path / "trainer_state.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    plt.close("all")
    for module in set(sys.modules) - before:
        if module.partition(".")[0] in ("my_package", "my_policy_loss"):
            del sys.modules[module]


def test_every_command_is_known():
    """It is executed, as it stands or smaller, or it is listed with a reason."""
    for document, lines in FOUND.items():
        for line in lines:
            known = line in AS_IT_IS or line in SHRUNK or line in NOT_HERE
            assert known or line.startswith("erc-bench run "), (document, line)


def test_every_entry_is_in_a_document():
    """A command that is gone leaves the lists."""
    lines = {line for found in FOUND.values() for line in found}
    assert {*AS_IT_IS, *SHRUNK, *NOT_HERE} - lines == set()
    for document, command in ELSEWHERE:
        assert command in FOUND[document]
        assert any(command in executed(other) for other in FOUND)


@pytest.mark.parametrize("document", [d for d in FOUND if executed(d)])
def test_commands_work(document, workplace):
    """In the document's order, in one folder; exit code 0, and what --out names is there."""
    for command in executed(document):
        words = argv(command)
        if words[0] == "pytest":
            run_pytest(words[1:])
            continue
        assert words[0] == "erc-bench", command
        try:
            code = main(words[1:])
        except SystemExit as stopped:
            code = stopped.code
        assert not code, f"{command}: exit code {code}"
        if "--out" in words:
            assert Path(words[words.index("--out") + 1]).exists(), command


def run_pytest(arguments: list[str]) -> None:
    """In a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout


def names_of_a_reader() -> dict[str, object]:
    """What blocks take for granted: logits, actions and a batch with every field."""
    draw = torch.Generator().manual_seed(0)
    B, T, V = 4, 6, 5
    logits, old_logits, ref_logits = torch.randn(3, B, T, V, generator=draw)
    action = torch.randint(V, (B, T), generator=draw)
    advantage = torch.randn(B, 1, generator=draw).expand(B, T)
    mask = torch.ones(B, T, dtype=torch.bool)
    ref = ref_logits.log_softmax(-1)
    ref_logp = ref.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    logits.requires_grad_()
    batch = TokenBatch.from_logits(
        logits,
        old_logits,
        action,
        advantage,
        mask,
        ref_log_probs=ref,
        ref_logp=ref_logp,
        rollout_logp=ref_logp,
        reward=torch.tensor([0.0, 1.0, 1.0, 0.0]),
    )
    return {
        "logits": logits,
        "old_logits": old_logits,
        "action": action,
        "advantage": advantage,
        "mask": mask,
        "batch": batch,
    }


@pytest.mark.parametrize("document", [d for d in BLOCKS if BLOCKS[d]])
def test_python_blocks_work(document, workplace):
    """One after the other; those that read results/mine or results/phase get such records first."""
    for folder, experiment in (("mine", "forking_tokens"), ("phase", "phase_diagram")):
        if f"results/{folder}" in "".join(BLOCKS[document]):
            assert not main(["run", experiment, *SMALL, "--out", f"results/{folder}"])
    for number, block in enumerate(BLOCKS[document]):
        if (document, number) in NO_BLOCK:
            continue
        for old, new in SMALLER.get((document, number), {}).items():
            assert old in block, (document, number, old)
            block = block.replace(old, new)  # noqa: PLW2901
        scope = names_of_a_reader()
        exec(compile(block, f"{document}[{number}]", "exec"), scope)
        if "loss" in scope:
            assert torch.isfinite(scope["loss"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_python_block_of_an_objective_works(recipe):
    """The page of each objective shows how to make and call it."""
    (block,) = python_blocks(objective_page(recipe))
    scope = names_of_a_reader()
    exec(compile(block, recipe, "exec"), scope)
    assert scope["objective"] == make(recipe)
    assert torch.isfinite(scope["loss"])


def test_every_entry_names_a_block():
    """Blocks that are gone leave the lists."""
    for document, number in [*SMALLER, *NO_BLOCK]:
        assert number < len(BLOCKS[document])
