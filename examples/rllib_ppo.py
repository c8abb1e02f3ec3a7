"""Masked PPO of RLlib learns to schedule: python examples/rllib_ppo.py --iterations 5

RLlib's module for action masks takes one discrete action and observations that have the mask with them: FlatActions and
MaskInObservation. Needs: pip install 'pecgym[rllib]'
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.examples.rl_modules.classes.action_masking_rlm import ActionMaskingTorchRLModule
from ray.tune.registry import register_env


def make(settings: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """An environment as RLlib's module wants it."""
    import pecgym  # noqa: F401  registers the ids in the process of an env runner
    from pecgym.wrappers import FlatActions, MaskInObservation

    env_id, requests = settings["env_id"], settings["requests"]
    # Where shorts go and whether they preempt; a reward of -1 is 100 s of waiting.
    env = gym.make(
        env_id,
        agent_controls=("placement", "preemption"),
        episode={"requests": requests},
        reward={"delay": 0.01, "long": 0.0},
    )
    return MaskInObservation(FlatActions(env))


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Mean returns of the episodes of each iteration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--env-id", default="pecgym/Cluster-v0")
    parser.add_argument("--requests", type=int, default=200, help="requests of an episode")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=4000, help="steps of an iteration")
    parser.add_argument("--env-runners", type=int, default=0, help="processes that collect; 0: this one")
    parser.add_argument("--envs-per-runner", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    register_env("cluster", make)
    algorithm = (
        PPOConfig()
        .environment("cluster", env_config={"env_id": args.env_id, "requests": args.requests})
        .env_runners(num_env_runners=args.env_runners, num_envs_per_env_runner=args.envs_per_runner)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=ActionMaskingTorchRLModule))
        .training(
            lr=1e-3,
            gamma=0.99,
            lambda_=0.95,
            use_kl_loss=False,
            train_batch_size_per_learner=args.batch_size,
            minibatch_size=min(256, args.batch_size),
            num_epochs=10,
        )
        .reporting(metrics_num_episodes_for_smoothing=16)
        .debugging(seed=args.seed)
        .build_algo()
    )
    returns = []
    for iteration in range(args.iterations):
        found = algorithm.train()["env_runners"]
        returns.append(float(found.get("episode_return_mean", float("nan"))))
        print(f"iteration {iteration + 1}: mean return {returns[-1]:.2f}")
    algorithm.stop()
    return returns


if __name__ == "__main__":
    main()
