"""Markdown and picture of each environment, from its docstring, its fields and an episode."""

from __future__ import annotations

import inspect
import io
import re

import gymnasium as gym
import numpy as np
from PIL import Image

import erc_envs
from erc_bench.studies import EXPERIMENTS
from erc_envs import Dynamics, Episode
from erc_envs.base import Frame

__all__ = ["ENVIRONMENTS", "environment_page", "environments_index", "episode", "frame_png"]

#: Classes of the dynamics by id.
ENVIRONMENTS: dict[str, type[Dynamics]] = {
    spec: getattr(erc_envs, spec.removeprefix("erc/").removesuffix("-v0"))
    for spec in sorted(gym.registry)
    if spec.startswith("erc/")
}

_GENERATED = "<!-- written by python -m erc_bench.docs_pages docs -->"
_SEED = 1
_CONTRACT = """Made with `gymnasium.make(id, **options)`, or many at a time with
`gymnasium.make_vec(id, n, vectorization_mode="vector_entry_point", **options)`; both step identically.

- `reset(seed=..., options={"prompt": x})` starts an episode of prompt x, so that a group of responses
  shares it; without the option prompts are drawn uniformly. `options={"progress": p}` goes to the task
  as it is after the fraction p of training.
- `info` is `{"prompt": x}`; `render_mode` is `"ansi"` or `"rgb_array"`.
- `env.unwrapped.optimal_return` and `env.unwrapped.dynamics.prior_return` are exact.
- `dynamics` are pure functions over a batch, which is what the trainer calls
  ([interface](../api/environments.md))."""


def environments_index() -> str:
    """A table of all, and what they share."""
    rows = ["| Environment | What it isolates | Experiments |", "|---|---|---|"]
    for spec, dynamics in ENVIRONMENTS.items():
        asked = ", ".join(f"[{e}](../experiments.md#{e})" for e in _experiments(spec)) or "-"
        rows.append(
            f"| [{dynamics.__name__}]({page_name(spec)}) | {_isolated(dynamics)} | {asked} |"
        )
    return "\n\n".join(["# Environments", _GENERATED, "\n".join(rows), _CONTRACT]) + "\n"


def page_name(spec: str) -> str:
    """File of an environment's page."""
    name = ENVIRONMENTS[spec].__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower() + ".md"


def environment_page(spec: str) -> str:
    """Docstring, picture, spaces, options and the experiments that use it."""
    dynamics = ENVIRONMENTS[spec]
    made = dynamics()
    env = gym.make(spec)
    asked = [
        f"- [{e}](../experiments.md#{e}): {EXPERIMENTS[e].question}" for e in _experiments(spec)
    ]
    picture = page_name(spec).replace(".md", ".png")
    facts = [
        "| Property | Value |", "|---|---|",
        f"| id | `{spec}` |",
        f"| observation space | `{env.observation_space}` |",
        f"| action space | `{env.action_space}` |",
        f"| longest episode | {made.horizon} actions |",
        f"| prompts | {made.num_prompts} |",
        f"| expected return of the best policy | {made.optimal_return:.4g} |",
        f"| of the prior, where training starts | {made.prior_return:.4g} |",
    ]  # fmt: skip
    parts = [
        f"# {dynamics.__name__}",
        _GENERATED,
        _markdown(inspect.getdoc(dynamics) or ""),
        f"## A finished episode\n\n![{_alt(spec)}](images/{picture})\n\n"
        f"```text\n{made.render_text(episode(made))}\n```\n\n"
        "Actions drawn from the prior; `render_mode` `rgb_array` and `ansi`.",
        "## With its defaults\n\n" + "\n".join(facts),
        f"## Options\n\n{_options(dynamics)}",
    ]
    if asked:
        parts.append("## Asked here\n\n" + "\n".join(asked))
    return "\n\n".join(parts) + "\n"


def episode(dynamics: Dynamics) -> Episode:
    """One episode that follows the prior, with a fixed seed."""
    rng = np.random.default_rng(_SEED)
    states = [dynamics.initial_state(np.array([1]))]
    actions: list[int] = []
    rewards: list[float] = []
    done = False
    while not done:
        action = int(rng.choice(dynamics.num_actions, p=dynamics.prior(states[-1])[0]))
        state, reward, ended = dynamics.step(states[-1], np.array([action]), rng.random(1))
        states.append(state)
        actions.append(action)
        rewards.append(float(reward[0]))
        done = bool(ended[0])
    return Episode(np.concatenate(states), np.array(actions), np.array(rewards), terminated=True)


def frame_png(frame: Frame) -> bytes:
    """A frame as a file."""
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _alt(spec: str) -> str:
    return f"Rendering of {spec}"


def _experiments(spec: str) -> list[str]:
    return [name for name, entry in EXPERIMENTS.items() if entry.environment == spec]


def _isolated(dynamics: type[Dynamics]) -> str:
    summary = _inline((inspect.getdoc(dynamics) or "").split("\n\n")[0])
    return " ".join(summary.split()).replace("|", "\\|")


def _options(dynamics: type[Dynamics]) -> str:
    rows = ["| Name | Default |", "|---|---|"]
    options = inspect.signature(dynamics).parameters.values()
    rows += [f"| `{option.name}` | `{option.default!r}` |" for option in options]
    return "\n".join(rows)


def _inline(text: str) -> str:
    """Roles and double backquotes as Markdown's code."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)
    return text.replace("``", "`")


def _markdown(text: str) -> str:
    """A docstring's paragraphs: indented ones are equations, prompts examples, ``Raises`` is left out."""
    parts = []
    for block in re.split(r"\n\s*\n", text):
        if block.startswith("Raises:"):
            continue
        if block.startswith(">>>"):
            parts.append(f"```pycon\n{block}\n```")
        elif block.startswith("    "):
            plain = inspect.cleandoc(block).replace("``", "")
            parts.append(f"```text\n{plain}\n```")
        else:
            parts.append(re.sub(r"(?<![\w`])([|*_])(?=[\w.\s])", r"\\\1", _inline(block)))
    joined = "\n\n".join(parts)
    return joined.replace("\n```\n\n```text\n", "\n\n")
