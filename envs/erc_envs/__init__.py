"""Small Gymnasium environments, each of which isolates one mechanism of policy drift.

Importing the package registers the ids; it needs numpy and gymnasium only.

>>> import gymnasium as gym
>>> env = gym.make("erc/TokenForks-v0")
>>> observation, info = env.reset(seed=0, options={"prompt": 3})
>>> observation, info
(array([3, 0, 0, 0]), {'prompt': 3})
>>> envs = gym.make_vec("erc/NullReward-v0", 4, vectorization_mode="vector_entry_point")
>>> envs.optimal_return
0.5
"""

import gymnasium as gym

from erc_envs.arithmetic import Arithmetic, ArithmeticEnv, ArithmeticVectorEnv
from erc_envs.base import Dynamics, DynamicsEnv, DynamicsVectorEnv, Episode
from erc_envs.drift_bandit import DriftBandit, DriftBanditEnv, DriftBanditVectorEnv
from erc_envs.mode_swap import ModeSwap, ModeSwapEnv, ModeSwapVectorEnv
from erc_envs.null_reward import NullReward, NullRewardEnv, NullRewardVectorEnv
from erc_envs.reward_shift import RewardShift, RewardShiftEnv, RewardShiftVectorEnv
from erc_envs.token_forks import TokenForks, TokenForksEnv, TokenForksVectorEnv
from erc_envs.variable_length import (
    VariableLength,
    VariableLengthEnv,
    VariableLengthVectorEnv,
)
from erc_envs.zipf_bandit import ZipfBandit, ZipfBanditEnv, ZipfBanditVectorEnv

__all__ = [
    "Arithmetic",
    "ArithmeticEnv",
    "ArithmeticVectorEnv",
    "DriftBandit",
    "DriftBanditEnv",
    "DriftBanditVectorEnv",
    "Dynamics",
    "DynamicsEnv",
    "DynamicsVectorEnv",
    "Episode",
    "ModeSwap",
    "ModeSwapEnv",
    "ModeSwapVectorEnv",
    "NullReward",
    "NullRewardEnv",
    "NullRewardVectorEnv",
    "RewardShift",
    "RewardShiftEnv",
    "RewardShiftVectorEnv",
    "TokenForks",
    "TokenForksEnv",
    "TokenForksVectorEnv",
    "VariableLength",
    "VariableLengthEnv",
    "VariableLengthVectorEnv",
    "ZipfBandit",
    "ZipfBanditEnv",
    "ZipfBanditVectorEnv",
]

for _module, _name in (
    ("arithmetic", "Arithmetic"),
    ("drift_bandit", "DriftBandit"),
    ("mode_swap", "ModeSwap"),
    ("null_reward", "NullReward"),
    ("reward_shift", "RewardShift"),
    ("token_forks", "TokenForks"),
    ("variable_length", "VariableLength"),
    ("zipf_bandit", "ZipfBandit"),
):
    gym.register(
        id=f"erc/{_name}-v0",
        entry_point=f"erc_envs.{_module}:{_name}Env",
        vector_entry_point=f"erc_envs.{_module}:{_name}VectorEnv",
    )
