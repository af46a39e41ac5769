"""A page and a picture for each environment, from its docstring, its fields and an episode."""

from __future__ import annotations

import inspect
import io
import re

import gymnasium as gym
import numpy as np
from PIL import Image

import erc_envs
from erc_bench.studies import EXPERIMENTS, Experiment
from erc_envs import Dynamics, Episode
from erc_envs.base import Frame
from tools.docs_pages.markdown import code, render, table

__all__ = ["ENVIRONMENTS", "episode", "frame_png", "page", "page_name", "pages", "sources"]

#: Classes of the dynamics by id.
ENVIRONMENTS: dict[str, type[Dynamics]] = {
    spec: getattr(erc_envs, spec.removeprefix("erc/").removesuffix("-v0"))
    for spec in sorted(gym.registry)
    if spec.startswith("erc/")
}
_SEED = 1


def pages() -> dict[str, str | bytes]:
    """The index, the pages and the pictures by their paths in the site."""
    found: dict[str, str | bytes] = {"environments/index.md": index()}
    for spec, dynamics in ENVIRONMENTS.items():
        made = dynamics()
        picture = page_name(spec).replace(".md", ".png")
        found[f"environments/{page_name(spec)}"] = page(spec)
        found[f"environments/images/{picture}"] = frame_png(made.render_frame(episode(made)))
    return found


def sources() -> dict[str, str]:
    """The package, and the file of each environment."""
    files = {spec: d.__module__.replace(".", "/") for spec, d in ENVIRONMENTS.items()}
    found = {f"envs/{file}.py": f"environments/{page_name(spec)}" for spec, file in files.items()}
    return {"envs/erc_envs": "environments/index.md", **found}


def index() -> str:
    """A table of all environments, and what they share."""
    rows = []
    for spec, dynamics in ENVIRONMENTS.items():
        summary = (inspect.getdoc(dynamics) or "").split("\n\n")[0]
        asked = [f"[{e.name}](../experiments.md#{e.name})" for e in _experiments(spec)]
        link = f"[{dynamics.__name__}]({page_name(spec)})"
        rows.append((link, " ".join(code(summary).split()), ", ".join(asked) or "-"))
    overview = table(("Environment", "What it isolates", "Experiments"), rows)
    interface = "../api/erc_envs.md#erc_envs.base"
    return render("environments", overview=overview, interface=interface)


def page_name(spec: str) -> str:
    """File of an environment's page."""
    name = ENVIRONMENTS[spec].__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower() + ".md"


def page(spec: str) -> str:
    """Docstring, picture, spaces, options and the experiments that use it."""
    dynamics, env = ENVIRONMENTS[spec], gym.make(spec)
    made = dynamics()
    facts = {
        "id": f"`{spec}`",
        "observation space": f"`{env.observation_space}`",
        "action space": f"`{env.action_space}`",
        "longest episode": f"{made.horizon} actions",
        "prompts": made.num_prompts,
        "expected return of the best policy": f"{made.optimal_return:.4g}",
        "of the prior, where training starts": f"{made.prior_return:.4g}",
    }
    options = inspect.signature(dynamics).parameters.values()
    return render(
        "environment",
        name=dynamics.__name__,
        spec=spec,
        docstring=_markdown(inspect.getdoc(dynamics) or ""),
        picture=page_name(spec).replace(".md", ".png"),
        text=made.render_text(episode(made)),
        facts=table(("Property", "Value"), facts.items()),
        options=table(("Name", "Default"), [(f"`{o.name}`", f"`{o.default!r}`") for o in options]),
        asked=_experiments(spec),
    )


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


def _experiments(spec: str) -> list[Experiment]:
    return [entry for entry in EXPERIMENTS.values() if entry.environment == spec]


def _markdown(text: str) -> str:
    """A docstring's paragraphs: indented ones are equations, prompts are examples, ``Raises`` is left out."""
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
            parts.append(re.sub(r"(?<![\w`])([|*_])(?=[\w.\s])", r"\\\1", code(block)))
    return "\n\n".join(parts).replace("\n```\n\n```text\n", "\n\n")
