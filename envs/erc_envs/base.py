"""Pure batched dynamics, and the two Gymnasium environments that wrap any of them.

A :class:`Dynamics` is a set of pure functions over a batch of N episodes. A trainer may call it
directly, for as many episodes as fit in memory; :class:`DynamicsEnv` and
:class:`DynamicsVectorEnv` add random numbers, autoreset and rendering, and step identically.
"""

from __future__ import annotations

import abc
import dataclasses
import operator
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from erc_envs._tables import check_float

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
Frame: TypeAlias = NDArray[np.uint8]
Observation: TypeAlias = NDArray[Any]  # int64 for MultiDiscrete, float32 for Box
Rendered: TypeAlias = Frame | str

RENDER_MODES = ("ansi", "rgb_array")


@dataclasses.dataclass(frozen=True)
class Episode:
    """What has happened so far in one episode of t actions: everything that rendering needs."""

    states: IntArray  # (t + 1, K)
    actions: IntArray  # (t,)
    rewards: FloatArray  # (t,)
    terminated: bool


class Dynamics(abc.ABC):
    """A family of short episodes, one per prompt, as pure functions over a batch of N.

    Axes: N episodes, K state columns, F observation features, V actions. A state is an int64
    array (N, K) whose columns the subclass documents; the first is always the prompt.

    Subclasses are frozen dataclasses: their fields are the whole configuration, two dynamics with
    equal fields are equal, and the tables are rebuilt from the fields when one is unpickled.

    The batched functions run in the inner loop of training and do not check their arguments:
    prompts lie in [0, num_prompts), actions in [0, num_actions). They write to none of their
    inputs, and return new arrays. The episodes of a batch do not touch each other: a batch of N
    gives exactly the rows of N batches of one.
    """

    num_prompts: int
    num_actions: int
    horizon: int  # the largest number of actions in an episode
    stochastic: ClassVar[bool]  # whether `step` reads `noise`

    @property
    @abc.abstractmethod
    def observation_space(self) -> spaces.Space[Any]:
        """The space of one episode's observation: MultiDiscrete, or a one-dimensional Box."""

    @abc.abstractmethod
    def initial_state(self, prompt: IntArray) -> IntArray:
        """States (N, K) at the start of the episodes with these prompts (N,)."""

    @abc.abstractmethod
    def observe(self, state: IntArray) -> Observation:
        """Observations (N, F) of the states (N, K), terminal ones included."""

    @abc.abstractmethod
    def step(
        self, state: IntArray, action: IntArray, noise: FloatArray
    ) -> tuple[IntArray, FloatArray, BoolArray]:
        """Next states (N, K), rewards (N,) and terminations (N,).

        Args:
            state: (N, K).
            action: (N,).
            noise: (N,) independent uniforms in [0, 1), the only source of chance; ignored
                unless ``stochastic``.

        A terminal state is absorbing: it comes back unchanged, with reward 0 and terminated.
        """

    @abc.abstractmethod
    def prior(self, state: IntArray) -> FloatArray:
        """The corpus's next-action distribution, p(. | state), (N, V).

        This is what supervised fine-tuning would have taught the policy before reinforcement
        learning. Rows are strictly positive and sum to one; terminal rows are uniform.
        """

    @abc.abstractmethod
    def optimal_action(self, state: IntArray) -> IntArray:
        """Actions (N,) of a policy that attains ``optimal_return``; a function of `observe`."""

    @property
    @abc.abstractmethod
    def optimal_return(self) -> float:
        """Exact expected return of the best policy, over uniformly drawn prompts."""

    @property
    @abc.abstractmethod
    def prior_return(self) -> float:
        """Exact expected return of a policy that follows `prior`, over uniform prompts."""

    def at(self, progress: float) -> Dynamics:
        """The task after this fraction of training, in [0, 1]; by default always the same.

        It forgets: ``d.at(p).at(q) == d.at(q)``. What is built once for a policy stays as it is:
        observation space, number of prompts and actions, horizon.

        Raises:
            ValueError: progress outside [0, 1].
        """
        check_progress(progress)
        return self

    def held_out(self) -> Dynamics:
        """The task that a policy trained on this one is evaluated on; by default the same.

        Observation space, number of actions and horizon stay as they are; the prompts may be
        others. It is final: ``d.held_out().held_out() == d.held_out()``.
        """
        return self

    @abc.abstractmethod
    def render_text(self, episode: Episode) -> str:
        """The episode so far as a few lines of text."""

    @abc.abstractmethod
    def render_frame(self, episode: Episode) -> Frame:
        """The episode so far as an image (H, W, 3), of the same size at every step."""

    def _set_tables(self, **tables: Any) -> None:
        """Assign derived attributes, once, from ``__post_init__``; arrays become read-only."""
        for name, value in tables.items():
            if isinstance(value, np.ndarray):
                value = np.array(value, order="C")  # noqa: PLW2901
                value.setflags(write=False)
            object.__setattr__(self, name, value)

    # Immutable, so a copy is the object itself, and a pickle is its configuration.
    def __copy__(self) -> Dynamics:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Dynamics:
        return self

    def __reduce__(self) -> tuple[type[Dynamics], tuple[Any, ...]]:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # subclasses are dataclasses
        return type(self), tuple(getattr(self, field.name) for field in fields if field.init)


def check_progress(progress: object, name: str = "progress") -> None:
    """Demand a fraction of training.

    Raises:
        ValueError: not a number in [0, 1].
    """
    check_float(name, progress, "in [0, 1]", lambda p: 0 <= p <= 1)


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise ValueError(f"render_mode must be None or one of {RENDER_MODES}, got {render_mode!r}")


def _check_prompt(value: Any, num_prompts: int) -> int:
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        prompt = operator.index(value)
    except TypeError:
        prompt = -1
    if not 0 <= prompt < num_prompts:
        raise ValueError(
            f"options['prompt'] must be an integer in [0, {num_prompts}), got {value!r}"
        )
    return prompt


def _check_options(options: dict[str, Any] | None) -> dict[str, Any]:
    options = {} if options is None else options
    for key in options:
        if key not in ("prompt", "progress"):
            raise ValueError(f"options has the unknown key {key!r}; allowed: 'prompt', 'progress'")
    if "progress" in options:
        check_progress(options["progress"], "options['progress']")
    return options


def _render(dynamics: Dynamics, render_mode: str, episode: Episode) -> Rendered:
    if render_mode == "ansi":
        return dynamics.render_text(episode)
    return dynamics.render_frame(episode)


def _warn_no_render_mode(env: object) -> None:
    gym.logger.warn(
        f"render() needs a render_mode; make {type(env).__name__} with one of {RENDER_MODES}"
    )


class DynamicsEnv(gym.Env[Observation, np.int64]):
    """One episode at a time of any :class:`Dynamics`.

    ``reset(seed=..., options={"prompt": x})`` starts an episode of prompt x; without the option
    the prompt is drawn uniformly, with ``np_random.integers(num_prompts)``. ``info`` is
    ``{"prompt": int}`` after every reset and step. If the dynamics are stochastic, a step draws
    one uniform from ``np_random``. ``options={"progress": p}`` goes to the task as it is after the
    fraction p of training (``Dynamics.at``), for this episode and those after it.

    Raises:
        ValueError: unknown render mode or option, or a prompt or progress out of range.
        gymnasium.error.ResetNeeded: a step or render without a running or finished episode.
        gymnasium.error.InvalidAction: an action outside the action space.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  # Gymnasium declares it as an instance attribute
        "render_modes": list(RENDER_MODES),
        "render_fps": 4,
    }

    def __init__(self, dynamics: Dynamics, render_mode: str | None = None) -> None:
        """Wrap the dynamics; ``render_mode`` is None, ``"ansi"`` or ``"rgb_array"``."""
        _check_render_mode(render_mode)
        self.dynamics = dynamics
        self.render_mode = render_mode
        self.observation_space = dynamics.observation_space
        self.action_space = spaces.Discrete(dynamics.num_actions)
        self._states: list[IntArray] = []  # each (1, K); empty before the first reset
        self._actions: list[int] = []
        self._rewards: list[float] = []
        self._terminated = False

    @property
    def optimal_return(self) -> float:
        """Exact expected return of the best policy, over uniformly drawn prompts."""
        return self.dynamics.optimal_return

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode, of ``options["prompt"]`` or of a prompt drawn uniformly."""
        options = _check_options(options)
        prompt = None
        if "prompt" in options:
            prompt = _check_prompt(options["prompt"], self.dynamics.num_prompts)
        super().reset(seed=seed)
        if "progress" in options:
            self.dynamics = self.dynamics.at(options["progress"])
        if prompt is None:
            prompt = int(self.np_random.integers(self.dynamics.num_prompts))
        self._states = [self.dynamics.initial_state(np.array([prompt]))]
        self._actions, self._rewards, self._terminated = [], [], False
        return self._observation(), self._info()

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one action; the episode is never truncated."""
        if not self._states:
            raise ResetNeeded("step() needs a running episode: call reset() first")
        if self._terminated:
            raise ResetNeeded("the episode has terminated: call reset() before the next step()")
        if not self.action_space.contains(action):
            raise InvalidAction(
                f"action must be an integer in [0, {self.dynamics.num_actions}), got {action!r}"
            )
        noise = self.np_random.random() if self.dynamics.stochastic else 0.0
        state, reward, terminated = self.dynamics.step(
            self._states[-1], np.array([action], dtype=np.int64), np.array([noise])
        )
        self._states.append(state)
        self._actions.append(int(action))
        self._rewards.append(float(reward[0]))
        self._terminated = bool(terminated[0])
        return self._observation(), self._rewards[-1], self._terminated, False, self._info()

    def render(self) -> Rendered | None:
        """The episode so far, as text or as a frame (H, W, 3) of uint8."""
        if self.render_mode is None:
            _warn_no_render_mode(self)
            return None
        if not self._states:
            raise ResetNeeded("render() needs an episode: call reset() first")
        episode = Episode(
            states=np.concatenate(self._states),
            actions=np.array(self._actions, dtype=np.int64),
            rewards=np.array(self._rewards, dtype=np.float64),
            terminated=self._terminated,
        )
        return _render(self.dynamics, self.render_mode, episode)

    def _observation(self) -> Observation:
        return np.asarray(self.dynamics.observe(self._states[-1])[0])

    def _info(self) -> dict[str, Any]:
        return {"prompt": int(self._states[-1][0, 0])}


class DynamicsVectorEnv(VectorEnv[Observation, IntArray, NDArray[Any]]):
    """``num_envs`` episodes at a time of any :class:`Dynamics`, stepped as one batch.

    Equal, array for array, to Gymnasium's SyncVectorEnv of :class:`DynamicsEnv` with next-step
    autoreset: the step after a termination ignores that action, starts a new episode with a
    freshly drawn prompt and returns reward 0. Each sub-environment has its own generator:
    ``reset(seed=s)`` seeds them with s, s + 1, ...; a list gives one seed (or None) each.
    ``options={"prompt": x}`` takes one prompt for all, or one per sub-environment;
    ``options={"progress": p}`` takes one number, for these episodes and those after them.

    Raises:
        ValueError: bad num_envs, render mode, option, prompt, progress or number of seeds.
        gymnasium.error.ResetNeeded: a step or render before the first reset.
        gymnasium.error.InvalidAction: actions of the wrong shape, dtype or range.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  # Gymnasium declares it as an instance attribute
        "render_modes": list(RENDER_MODES),
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self, dynamics: Dynamics, num_envs: int = 1, render_mode: str | None = None
    ) -> None:
        """Wrap the dynamics; ``render_mode`` is None, ``"ansi"`` or ``"rgb_array"``."""
        super().__init__()
        if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
            raise ValueError(f"num_envs must be an integer >= 1, got {num_envs!r}")
        _check_render_mode(render_mode)
        self.dynamics = dynamics
        self.num_envs = int(num_envs)
        self.render_mode = render_mode
        self.single_observation_space = dynamics.observation_space
        self.single_action_space = spaces.Discrete(dynamics.num_actions)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._generators: list[np.random.Generator | None] = [None] * self.num_envs
        self._seeds: list[int | None] = [None] * self.num_envs
        self._state: IntArray | None = None  # (N, K); None before the first reset
        self._terminated: BoolArray = np.zeros(self.num_envs, dtype=np.bool_)
        self._history: _History | None = None  # kept only for rendering

    @property
    def optimal_return(self) -> float:
        """Exact expected return of the best policy, over uniformly drawn prompts."""
        return self.dynamics.optimal_return

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generators of the sub-environments."""
        return tuple(self._generator(i) for i in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """The seeds of the sub-environments."""
        for i in range(self.num_envs):
            self._generator(i)
        return tuple(self._seeds)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode in every sub-environment."""
        options = _check_options(options)
        prompt = self._check_prompts(options["prompt"]) if "prompt" in options else None
        for i, sub_seed in enumerate(self._check_seeds(seed)):
            if sub_seed is not None:
                self._generators[i], self._seeds[i] = seeding.np_random(int(sub_seed))
        if "progress" in options:
            self.dynamics = self.dynamics.at(options["progress"])
        if prompt is None:
            prompt = self._draw_prompts(np.arange(self.num_envs))
        self._state = self.dynamics.initial_state(prompt)
        self._terminated = np.zeros(self.num_envs, dtype=np.bool_)
        if self.render_mode is not None:
            self._history = _History(self._state, self.dynamics.horizon)
        return self.dynamics.observe(self._state), self._info(self._state)

    def step(
        self, actions: IntArray
    ) -> tuple[Observation, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Step every running episode; start a new one where the last step terminated."""
        if self._state is None:
            raise ResetNeeded("step() needs running episodes: call reset() first")
        actions = self._check_actions(actions)
        finished = np.flatnonzero(self._terminated)
        noise = np.zeros(self.num_envs)
        if self.dynamics.stochastic:
            running = np.flatnonzero(~self._terminated)
            noise[running] = [self._generator(i).random() for i in running.tolist()]
        # Finished episodes are in an absorbing state, so the whole batch may be stepped.
        state, reward, terminated = self.dynamics.step(self._state, actions, noise)
        if finished.size:
            state[finished] = self.dynamics.initial_state(self._draw_prompts(finished))
            reward[finished] = 0.0
            terminated[finished] = False
        if self._history is not None:
            self._history.record(state, actions, reward, restarted=self._terminated)
        self._state, self._terminated = state, terminated
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        return self.dynamics.observe(state), reward, terminated.copy(), truncated, self._info(state)

    def render(self) -> tuple[Rendered, ...] | None:
        """Every episode so far, as texts or as frames (H, W, 3) of uint8."""
        if self.render_mode is None:
            _warn_no_render_mode(self)
            return None
        if self._history is None:
            raise ResetNeeded("render() needs episodes: call reset() first")
        return tuple(
            _render(self.dynamics, self.render_mode, self._history.episode(i, done))
            for i, done in enumerate(self._terminated.tolist())
        )

    def _generator(self, index: int) -> np.random.Generator:
        generator = self._generators[index]
        if generator is None:
            generator, self._seeds[index] = seeding.np_random()
            self._generators[index] = generator
        return generator

    def _draw_prompts(self, rows: IntArray) -> IntArray:
        num_prompts = self.dynamics.num_prompts
        draws = [self._generator(i).integers(num_prompts) for i in rows.tolist()]
        return np.array(draws, dtype=np.int64)

    def _info(self, state: IntArray) -> dict[str, Any]:
        return {"prompt": state[:, 0].copy(), "_prompt": np.ones(self.num_envs, dtype=np.bool_)}

    def _check_seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(
                f"seed must be an integer or num_envs={self.num_envs} of them, got {len(seed)}"
            )
        return seed

    def _check_prompts(self, value: Any) -> IntArray:
        num_prompts = self.dynamics.num_prompts
        if np.ndim(value) == 0:
            return np.full(self.num_envs, _check_prompt(value, num_prompts), dtype=np.int64)
        if len(value) != self.num_envs:
            raise ValueError(
                f"options['prompt'] must be an integer or num_envs={self.num_envs} of them, "
                f"got {len(value)}"
            )
        return np.array([_check_prompt(item, num_prompts) for item in value], dtype=np.int64)

    def _check_actions(self, actions: Any) -> IntArray:
        actions = np.asarray(actions)
        if (
            actions.shape != (self.num_envs,)
            or not np.issubdtype(actions.dtype, np.integer)
            or ((actions < 0) | (actions >= self.dynamics.num_actions)).any()
        ):
            raise InvalidAction(
                f"actions must be integers in [0, {self.dynamics.num_actions}) of shape "
                f"({self.num_envs},), got {actions!r}"
            )
        return np.asarray(actions, dtype=np.int64)


class _History:
    """The episodes so far of N sub-environments, in arrays of the horizon's length."""

    def __init__(self, state: IntArray, horizon: int) -> None:
        N, K = state.shape
        self._rows = np.arange(N)
        self._length = np.zeros(N, dtype=np.int64)
        self._states = np.zeros((N, horizon + 1, K), dtype=np.int64)
        self._actions = np.zeros((N, horizon), dtype=np.int64)
        self._rewards = np.zeros((N, horizon))
        self._states[:, 0] = state

    def record(
        self, state: IntArray, action: IntArray, reward: FloatArray, restarted: BoolArray
    ) -> None:
        """Append one step, or start afresh in the rows that restarted."""
        rows = self._rows[~restarted]
        at = self._length[rows]
        self._actions[rows, at] = action[rows]
        self._rewards[rows, at] = reward[rows]
        self._length = np.where(restarted, 0, self._length + 1)
        self._states[self._rows, self._length] = state

    def episode(self, index: int, terminated: bool) -> Episode:
        """The episode of one sub-environment."""
        length = int(self._length[index])
        return Episode(
            states=self._states[index, : length + 1].copy(),
            actions=self._actions[index, :length].copy(),
            rewards=self._rewards[index, :length].copy(),
            terminated=terminated,
        )
