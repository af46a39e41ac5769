"""Small Gymnasium environments, each of which isolates one mechanism of policy drift.

Importing the package registers the ids; it needs numpy and gymnasium only, but for
ReasoningGym, whose problems come with ``pip install 'erc-bench[tasks]'``.

>>> import gymnasium as gym
>>> env = gym.make("erc/TokenForks-v0")
>>> observation, info = env.reset(seed=0, options={"prompt": 3})
>>> observation, info
(array([3, 0, 0, 0]), {'prompt': 3})
>>> envs = gym.make_vec("erc/NullReward-v0", 4, vectorization_mode="vector_entry_point")
>>> envs.optimal_return
0.5
"""

from erc_envs.arithmetic import Arithmetic
from erc_envs.base import Dynamics, DynamicsEnv, DynamicsVectorEnv, Episode, register
from erc_envs.drift_bandit import DriftBandit
from erc_envs.mode_swap import ModeSwap
from erc_envs.null_reward import NullReward
from erc_envs.reasoning_gym import ReasoningGym
from erc_envs.reward_shift import RewardShift
from erc_envs.token_forks import TokenForks
from erc_envs.variable_length import VariableLength
from erc_envs.zipf_bandit import ZipfBandit

ArithmeticEnv, ArithmeticVectorEnv = register("erc/Arithmetic-v0", Arithmetic)
DriftBanditEnv, DriftBanditVectorEnv = register("erc/DriftBandit-v0", DriftBandit)
ModeSwapEnv, ModeSwapVectorEnv = register("erc/ModeSwap-v0", ModeSwap)
NullRewardEnv, NullRewardVectorEnv = register("erc/NullReward-v0", NullReward)
ReasoningGymEnv, ReasoningGymVectorEnv = register("erc/ReasoningGym-v0", ReasoningGym)
RewardShiftEnv, RewardShiftVectorEnv = register("erc/RewardShift-v0", RewardShift)
TokenForksEnv, TokenForksVectorEnv = register("erc/TokenForks-v0", TokenForks)
VariableLengthEnv, VariableLengthVectorEnv = register("erc/VariableLength-v0", VariableLength)
ZipfBanditEnv, ZipfBanditVectorEnv = register("erc/ZipfBandit-v0", ZipfBandit)

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
    "ReasoningGym",
    "ReasoningGymEnv",
    "ReasoningGymVectorEnv",
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
