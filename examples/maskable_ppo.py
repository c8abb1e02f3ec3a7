"""MaskablePPO of sb3-contrib learns to schedule: python examples/maskable_ppo.py --total-timesteps 50000

It finds the masks by itself: the environments have action_masks(). Needs: pip install 'pecgym[train]'
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize

from pecgym.envs.sb3 import SB3VecEnv

EPISODES = 16


def make(env_id: str, requests: int, n_envs: int, seed: int) -> VecEnv:
    """Copies whose episodes are `requests` requests at random places of the trace."""
    copies = SB3VecEnv(env_id, n_envs, episode={"requests": requests})
    copies.seed(seed)
    return VecMonitor(copies)


def main(arguments: Sequence[str] | None = None) -> tuple[float, float]:
    """Mean return over the same episodes before and after training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--env-id", default="pecgym/Cluster-v0")
    parser.add_argument("--requests", type=int, default=200, help="requests of an episode")
    parser.add_argument("--n-envs", type=int, default=64)
    parser.add_argument("--n-steps", type=int, default=128, help="steps of each copy between two updates")
    parser.add_argument("--total-timesteps", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    torch.set_num_threads(1)  # networks this small only lose by more
    # Observations are scaled already; the sizes of rewards differ by orders of magnitude from cluster to cluster.
    copies = VecNormalize(make(args.env_id, args.requests, args.n_envs, args.seed), norm_obs=False, gamma=0.99)
    model = MaskablePPO("MultiInputPolicy", copies, n_steps=args.n_steps, batch_size=512, seed=args.seed)

    def evaluate() -> float:
        mean, _ = evaluate_policy(model, make(args.env_id, args.requests, EPISODES, 10_000), EPISODES)
        return float(mean)

    before = evaluate()
    model.learn(args.total_timesteps)
    after = evaluate()
    print(f"mean return of {EPISODES} episodes: {before:.1f} before, {after:.1f} after {model.num_timesteps} steps")
    return before, after


if __name__ == "__main__":
    main()
