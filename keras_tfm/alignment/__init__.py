"""Training on preferences and on rewards: reward models, DPO and its kin, GRPO, PPO; each a Keras model with `fit`."""

from keras_tfm.alignment.grpo import GRPO
from keras_tfm.alignment.log_probs import next_log_probs
from keras_tfm.alignment.ppo import PPO
from keras_tfm.alignment.preference import DPO, IPO, KTO, ORPO, HingeDPO, SimPO
from keras_tfm.alignment.preference_model import Answers, PreferenceModel
from keras_tfm.alignment.reference import Reference
from keras_tfm.alignment.reward_model import RewardModel
from keras_tfm.alignment.rollout_model import RolloutModel
from keras_tfm.alignment.rollouts import Rollout

__all__ = [
    "DPO",
    "GRPO",
    "IPO",
    "KTO",
    "ORPO",
    "PPO",
    "Answers",
    "HingeDPO",
    "PreferenceModel",
    "Reference",
    "RewardModel",
    "Rollout",
    "RolloutModel",
    "SimPO",
    "next_log_probs",
]


def __dir__() -> list[str]:
    return __all__
