"""Pure batched dynamics, and the Gymnasium environments that are made from them.

A :class:`Dynamics` is a set of pure functions over a batch of N episodes. A trainer may call it
directly, for as many episodes as fit in memory. :class:`DynamicsEnv` and :class:`DynamicsVectorEnv`
add random numbers, autoreset and rendering; both step exactly as the dynamics do.
:func:`register` gives a class of dynamics its Gymnasium id.
"""

from __future__ import annotations

import abc
import dataclasses
import operator
import sys
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from erc_envs._checks import check_choice, check_float, check_int

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
Frame: TypeAlias = NDArray[np.uint8]
Observation: TypeAlias = NDArray[Any]  # int64 for MultiDiscrete, float32 for Box
Rendered: TypeAlias = Frame | str

RENDER_MODES = ("ansi", "rgb_array")


@dataclasses.dataclass(frozen=True)
class Episode:
    """The first t actions of one episode and what came of them, which is all that rendering needs."""

    states: IntArray  # (t + 1, K)
    actions: IntArray  # (t,)
    rewards: FloatArray  # (t,)
    terminated: bool

    @property
    def prompt(self) -> int:
        """The prompt of the episode."""
        return int(self.states[0, 0])

    @property
    def final_reward(self) -> float | None:
        """The reward of the last action, or None while the episode runs."""
        return float(self.rewards[-1]) if self.terminated else None


class Dynamics(abc.ABC):
    """A family of short episodes, one per prompt, as pure functions over a batch of N.

    Axes: N episodes, K state columns, F observation features, V actions. A state is an int64
    array (N, K) whose columns the subclass documents; the first column is always the prompt.

    Subclasses are frozen dataclasses. Their fields are the whole configuration: two dynamics with
    equal fields are equal, and unpickling one rebuilds its tables from the fields.

    The batched functions run in the inner loop of training and do not check their arguments:
    prompts lie in [0, num_prompts), actions in [0, num_actions). They never write to their inputs,
    and they return new arrays. The episodes of a batch do not affect each other: a batch of N
    gives exactly the rows that N batches of one would give.
    """

    num_prompts: int
    num_actions: int
    horizon: int  # the largest number of actions in an episode
    stochastic: ClassVar[bool]  # whether `step` reads `noise`
    extra: ClassVar[str | None] = None  # of erc-bench, with the package that making one imports

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
            noise: (N,) independent uniforms in [0, 1). They are the only source of chance, and
                are ignored unless ``stochastic``.

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
        """The task after this fraction of training, in [0, 1]; by default it never changes.

        A stage depends on the progress alone: ``d.at(p).at(q) == d.at(q)``. Whatever a policy was
        built for stays the same: observation space, number of prompts and actions, horizon.

        Raises:
            ValueError: progress outside [0, 1].
        """
        check_float("progress", progress, 0, 1)
        return self

    def held_out(self) -> Dynamics:
        """The task on which a policy trained on this one is evaluated; by default the same task.

        Observation space, number of actions and horizon stay the same; the prompts may differ.
        Holding out twice changes nothing more: ``d.held_out().held_out() == d.held_out()``.
        """
        return self

    @abc.abstractmethod
    def render_text(self, episode: Episode) -> str:
        """The episode so far as a few lines of text."""

    @abc.abstractmethod
    def render_frame(self, episode: Episode) -> Frame:
        """The episode so far as an image (H, W, 3), of the same size at every step."""

    def _set_tables(self, **tables: Any) -> None:
        """Assign derived attributes once, from ``__post_init__``; arrays become read-only."""
        for name, value in tables.items():
            if isinstance(value, np.ndarray):
                value = np.array(value, order="C")  # noqa: PLW2901
                value.setflags(write=False)
            object.__setattr__(self, name, value)

    # Dynamics are immutable, so a copy is the object itself, and a pickle holds only the fields.
    def __copy__(self) -> Dynamics:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Dynamics:
        return self

    def __reduce__(self) -> tuple[type[Dynamics], tuple[Any, ...]]:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # subclasses are dataclasses
        return type(self), tuple(getattr(self, field.name) for field in fields if field.init)


def states(prompt: IntArray, *columns: int) -> IntArray:
    """States (N, K) whose first column holds the prompts; the other columns are the same in all.

    >>> states(np.array([7, 9]), 0, 1)
    array([[7, 0, 1],
           [9, 0, 1]])
    """
    state = np.empty((len(prompt), 1 + len(columns)), dtype=np.int64)
    state[:, 0] = prompt
    state[:, 1:] = columns
    return state


class _Recorder:
    """Collects an episode while it runs."""

    def __init__(self, state: IntArray) -> None:
        self.states = [state]  # each (1, K)
        self.actions: list[int] = []
        self.rewards: list[float] = []
        self.terminated = False

    def add(self, state: IntArray, action: int, reward: float, terminated: bool) -> None:
        self.states.append(state)
        self.actions.append(action)
        self.rewards.append(reward)
        self.terminated = terminated

    def episode(self) -> Episode:
        return Episode(
            states=np.concatenate(self.states),
            actions=np.array(self.actions, dtype=np.int64),
            rewards=np.array(self.rewards, dtype=np.float64),
            terminated=self.terminated,
        )


class _Wrapper:
    """What a single and a vector environment have in common."""

    dynamics: Dynamics
    render_mode: str | None
    _episodes: list[_Recorder]  # empty before the first reset

    @property
    def optimal_return(self) -> float:
        """Exact expected return of the best policy, over uniformly drawn prompts."""
        return self.dynamics.optimal_return

    def _wrap(self, dynamics: Dynamics, render_mode: str | None) -> None:
        check_choice("render_mode", render_mode, (None, *RENDER_MODES))
        self.dynamics = dynamics
        self.render_mode = render_mode
        self._episodes = []

    def _check_options(self, options: dict[str, Any] | None) -> dict[str, Any]:
        """The options of a reset, none of which has taken effect yet."""
        options = {} if options is None else options
        for key in options:
            if key not in ("prompt", "progress"):
                raise ValueError(
                    f"options has the unknown key {key!r}; allowed: 'prompt', 'progress'"
                )
        if "progress" in options:
            check_float("options['progress']", options["progress"], 0, 1)
        return options

    def _check_prompt(self, value: Any) -> int:
        try:
            prompt = value if isinstance(value, bool | np.bool_) else operator.index(value)
        except TypeError:
            prompt = value  # it is no integer, as the check is about to say
        check_int("options['prompt']", prompt, 0, self.dynamics.num_prompts, "[)")
        return int(prompt)

    def _render(self) -> tuple[Rendered, ...] | None:
        if self.render_mode is None:
            made = type(self).__name__
            gym.logger.warn(f"render() needs a render_mode; make {made} with one of {RENDER_MODES}")
            return None
        if not self._episodes:
            raise ResetNeeded("render() needs an episode: call reset() first")
        ansi = self.render_mode == "ansi"
        draw = self.dynamics.render_text if ansi else self.dynamics.render_frame
        return tuple(draw(recorder.episode()) for recorder in self._episodes)


class DynamicsEnv(_Wrapper, gym.Env[Observation, np.int64]):
    """One episode at a time of any :class:`Dynamics`.

    ``reset(seed=..., options={"prompt": x})`` starts an episode of prompt x; without the option
    the prompt is drawn uniformly, with ``np_random.integers(num_prompts)``. ``info`` is
    ``{"prompt": int}`` after every reset and step. If the dynamics are stochastic, a step draws
    one uniform from ``np_random``. ``options={"progress": p}`` moves on to the task as it is after
    the fraction p of training (``Dynamics.at``), for this episode and those after it.

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
        self._wrap(dynamics, render_mode)
        self.observation_space = dynamics.observation_space
        self.action_space = spaces.Discrete(dynamics.num_actions)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode, of ``options["prompt"]`` or of a prompt drawn uniformly."""
        options = self._check_options(options)
        prompt = self._check_prompt(options["prompt"]) if "prompt" in options else None
        super().reset(seed=seed)
        if "progress" in options:
            self.dynamics = self.dynamics.at(options["progress"])
        if prompt is None:
            prompt = int(self.np_random.integers(self.dynamics.num_prompts))
        state = self.dynamics.initial_state(np.array([prompt]))
        self._episodes = [_Recorder(state)]
        return self._observation(state), {"prompt": prompt}

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one action; the episode is never truncated."""
        if not self._episodes:
            raise ResetNeeded("step() needs a running episode: call reset() first")
        (episode,) = self._episodes
        if episode.terminated:
            raise ResetNeeded("the episode has terminated: call reset() before the next step()")
        if not self.action_space.contains(action):
            raise InvalidAction(
                f"action must be an integer in [0, {self.dynamics.num_actions}), got {action!r}"
            )
        noise = self.np_random.random() if self.dynamics.stochastic else 0.0
        state, reward, terminated = self.dynamics.step(
            episode.states[-1], np.array([action], dtype=np.int64), np.array([noise])
        )
        earned, done = float(reward[0]), bool(terminated[0])
        episode.add(state, int(action), earned, done)
        return self._observation(state), earned, done, False, {"prompt": int(state[0, 0])}

    def render(self) -> Rendered | None:
        """The episode so far, as text or as a frame (H, W, 3) of uint8."""
        rendered = self._render()
        return None if rendered is None else rendered[0]

    def _observation(self, state: IntArray) -> Observation:
        return np.asarray(self.dynamics.observe(state)[0])


class DynamicsVectorEnv(_Wrapper, VectorEnv[Observation, IntArray, NDArray[Any]]):
    """``num_envs`` episodes at a time of any :class:`Dynamics`, stepped as one batch.

    It equals, array for array, Gymnasium's SyncVectorEnv of :class:`DynamicsEnv` with next-step
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
        **DynamicsEnv.metadata,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self, dynamics: Dynamics, num_envs: int = 1, render_mode: str | None = None
    ) -> None:
        """Wrap the dynamics; ``render_mode`` is None, ``"ansi"`` or ``"rgb_array"``."""
        super().__init__()
        check_int("num_envs", num_envs, 1)
        self._wrap(dynamics, render_mode)
        self.num_envs = int(num_envs)
        self.single_observation_space = dynamics.observation_space
        self.single_action_space = spaces.Discrete(dynamics.num_actions)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        # One plain environment per episode, of which only the random generator is used.
        self._chance: list[gym.Env[Any, Any]] = [gym.Env() for _ in range(self.num_envs)]
        self._state: IntArray | None = None  # (N, K); None before the first reset
        self._terminated: BoolArray = np.zeros(self.num_envs, dtype=np.bool_)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generators of the sub-environments."""
        return tuple(source.np_random for source in self._chance)

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """The seeds of the sub-environments."""
        return tuple(source.np_random_seed for source in self._chance)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode in every sub-environment."""
        options = self._check_options(options)
        prompt = self._check_prompts(options["prompt"]) if "prompt" in options else None
        for source, sub_seed in zip(self._chance, self._check_seeds(seed), strict=True):
            source.reset(seed=None if sub_seed is None else int(sub_seed))
        if "progress" in options:
            self.dynamics = self.dynamics.at(options["progress"])
        if prompt is None:
            prompt = self._draw_prompts(range(self.num_envs))
        self._state = self.dynamics.initial_state(prompt)
        self._terminated = np.zeros(self.num_envs, dtype=np.bool_)
        if self.render_mode is not None:  # only renderings need the past
            self._episodes = [_Recorder(row[None]) for row in self._state]
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
            noise[running] = [self._chance[i].np_random.random() for i in running.tolist()]
        # Finished episodes are in an absorbing state, so the whole batch may be stepped.
        state, reward, terminated = self.dynamics.step(self._state, actions, noise)
        if finished.size:
            state[finished] = self.dynamics.initial_state(self._draw_prompts(finished.tolist()))
            reward[finished] = 0.0
            terminated[finished] = False
        for i, recorder in enumerate(self._episodes):
            if recorder.terminated:
                self._episodes[i] = _Recorder(state[[i]])
            else:
                recorder.add(state[[i]], int(actions[i]), float(reward[i]), bool(terminated[i]))
        self._state, self._terminated = state, terminated
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        return self.dynamics.observe(state), reward, terminated.copy(), truncated, self._info(state)

    def render(self) -> tuple[Rendered, ...] | None:
        """Every episode so far, as texts or as frames (H, W, 3) of uint8."""
        return self._render()

    def _draw_prompts(self, rows: Sequence[int]) -> IntArray:
        draws = [self._chance[i].np_random.integers(self.dynamics.num_prompts) for i in rows]
        return np.array(draws, dtype=np.int64)

    def _info(self, state: IntArray) -> dict[str, Any]:
        return {"prompt": state[:, 0].copy(), "_prompt": np.ones(self.num_envs, dtype=np.bool_)}

    def _check_seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        self._check_one_each("seed", seed)
        return seed

    def _check_prompts(self, value: Any) -> IntArray:
        if np.ndim(value) == 0:
            return np.full(self.num_envs, self._check_prompt(value), dtype=np.int64)
        self._check_one_each("options['prompt']", value)
        return np.array([self._check_prompt(item) for item in value], dtype=np.int64)

    def _check_one_each(self, name: str, values: Sequence[Any]) -> None:
        if len(values) != self.num_envs:
            allowed = f"an integer or num_envs={self.num_envs} of them"
            raise ValueError(f"{name} must be {allowed}, got {len(values)}")

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


class RegisteredEnv(DynamicsEnv):
    """One episode at a time of the registered dynamics, whose fields are the other keywords."""

    dynamics_class: ClassVar[type[Dynamics]]

    def __init__(self, render_mode: str | None = None, **fields: Any) -> None:
        super().__init__(self.dynamics_class(**fields), render_mode)


class RegisteredVectorEnv(DynamicsVectorEnv):
    """``num_envs`` episodes of the registered dynamics, whose fields are the other keywords."""

    dynamics_class: ClassVar[type[Dynamics]]

    def __init__(self, num_envs: int = 1, render_mode: str | None = None, **fields: Any) -> None:
        super().__init__(self.dynamics_class(**fields), num_envs, render_mode)


def register(
    env_id: str, dynamics: type[Dynamics]
) -> tuple[type[RegisteredEnv], type[RegisteredVectorEnv]]:
    """Make the two Gymnasium environments of a class of dynamics, and register them under an id.

    ``gym.make(env_id, **fields)`` and ``gym.make_vec(env_id, n, **fields)`` then work. The classes
    are named after the dynamics, as in TokenForksEnv and TokenForksVectorEnv. They are put into the
    module that defines the dynamics, where Gymnasium and pickle look for them.
    """
    module, name = dynamics.__module__, dynamics.__name__
    body = {"__module__": module, "dynamics_class": dynamics}
    env = type(f"{name}Env", (RegisteredEnv,), body)
    vector_env = type(f"{name}VectorEnv", (RegisteredVectorEnv,), body)
    for made in (env, vector_env):
        setattr(sys.modules[module], made.__name__, made)
    gym.register(
        id=env_id,
        entry_point=f"{module}:{env.__name__}",
        vector_entry_point=f"{module}:{vector_env.__name__}",
    )
    return env, vector_env
