"""Every feature of an observation has the value that its table says, computed anew from the state at random moments."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pecgym.engine.state import (
    DECODE,
    GROUP_GATHERING,
    NEVER_PS,
    NONE,
    PREFILL,
    RUNNING,
    SERVING,
)
from pecgym.envs import spaces
from pecgym.envs.cluster_env import ClusterEnv
from pecgym.envs.core import KINDS
from tests.engine.checker import record
from tests.envs.rules import Rules
from tests.envs.worlds import at_random, make_env, random_world, split

CLASSES = [feature.name for feature in spaces.CLUSTER[:8]]


def half(x: float, at: float) -> float:
    return x / (x + at)


def log2(x: float, most: float) -> float:
    return min(math.log2(1 + x) / most, 1.0)


class Oracle:
    """The features of one environment at this moment, by name."""

    def __init__(self, env: ClusterEnv, last_s: float) -> None:
        self.env, self.state, self.config = env, env.simulator.state, env.config
        self.cluster, self.settings = record(self.state.cluster), record(self.state.settings)
        self.replicas = [record(self.state.replicas, r) for r in range(len(self.state.replicas))]
        self.groups = [record(self.state.groups, r) for r in range(len(self.state.replicas))]
        self.now_ps, self.last_s = self.cluster.now_ps, last_s
        self.kind = KINDS[int(env._kind[0])]
        self.rules = Rules(env.simulator, env.config, env._copies.policy)
        self.longs = self.rules.longs()

    def age_s(self, slot: int) -> float:
        return (self.now_ps - int(self.state.requests[slot].arrival_ps)) / 1e12

    def blocks(self, tokens: int) -> int:
        return -(-tokens // self.settings.block_tokens)

    def resident_slots(self, r: int) -> list[int]:
        q = self.replicas[r]
        decodes = self.state.decodes.view(np.ndarray)["slot"][r, : q.n_decodes].tolist()
        return decodes + self.state.prefills[r, : q.n_prefills].tolist()

    def ends_ps(self, r: int) -> list[int]:
        """When each iteration of the run under way on replica r, or of its group's decode, ends."""
        q = self.replicas[r]
        if q.status == SERVING:
            q = self.replicas[q.lead]
        return [
            q.started_ps + q.first_extra_ps + k * q.base_ps + q.slope_ps * (k * (k - 1) // 2)
            for k in range(1, q.n_iterations + 1)
        ]

    def kv_share(self, r: int) -> float:
        """Blocks of the decodes by now, with the iteration in progress, of the prompts, of pushes and of the long."""
        q, requests = self.replicas[r], self.state.requests
        steps = 0
        if q.status == RUNNING and q.with_decodes:
            ends = self.ends_ps(r)
            steps = min(sum(end <= self.now_ps for end in ends) + (self.now_ps not in ends), len(ends))
        blocks = 0
        for slot in self.resident_slots(r):
            request = requests[slot]
            if request.decoding:
                held = int(request.computed_tokens + q.decode_steps - request.join_step) + steps
            else:
                held = int(request.prompt_tokens)
            blocks += self.blocks(held)
        for request in self.env.simulator.unfinished():
            is_pushed = request.pushed_ps > self.now_ps and not request.is_long
            if is_pushed and request.replica == r and request.decoding and request.swapped == 0:
                blocks += self.blocks(int(request.prompt_tokens))
        if q.lead != NONE and self.groups[q.lead].phase != GROUP_GATHERING:
            group = self.groups[q.lead]
            blocks += self.blocks(-(-int(requests[group.slot].input_tokens) // group.degree))
        return min(blocks / self.settings.capacity_blocks, 1.0)

    def prefill_left_ps(self, lead: int) -> int:
        group = self.groups[lead]
        running = self.now_ps - self.replicas[lead].started_ps if group.phase == PREFILL else 0
        return max(group.work_ps - group.done_ps - running, 0) if group.phase < DECODE else 0

    def boundary_s(self, r: int) -> float:
        q = self.replicas[r]
        if q.status == SERVING and self.groups[q.lead].phase == PREFILL:
            return self.prefill_left_ps(q.lead) / 1e12
        runs = q.status == RUNNING or (q.status == SERVING and self.groups[q.lead].phase == DECODE)
        if not runs or (q.status == SERVING and self.state.event_ps[q.lead] == NEVER_PS):
            return 0.0
        later = [end for end in self.ends_ps(r) if end > self.now_ps]
        return (later[0] - self.now_ps) / 1e12 if later else 0.0

    def replica(self, r: int) -> dict[str, float]:
        q, per_node = self.replicas[r], self.settings.replicas_per_node
        node = [other for other in range(len(self.replicas)) if other // per_node == r // per_node]
        found = {name: float(q.place_class == k) for k, name in enumerate(CLASSES)}
        waiting = q.n_requests - q.n_prefills - q.n_decodes
        found |= {
            "requests": half(q.n_requests, 16),
            "waiting": half(waiting, 16),
            "queued_tokens": half(q.queued_tokens, self.settings.max_batch_tokens),
            "decodes": q.n_decodes / self.settings.slots,
            "kv_memory": self.kv_share(r),
            "incoming": half(q.incoming, 16),
            "pushing": half(q.n_pushing, 16),
            "busy": float(q.status in (RUNNING, SERVING)),
            "boundary": half(self.boundary_s(r), 1),
            "open_on_node": sum(self.replicas[other].place_class == 0 for other in node) / len(node),
            "chosen": float(self.is_chosen(r)),
        }
        longs = dict.fromkeys(("long_left", "long_done", "long_degree", "long_preemptions", "long_age"), 0.0)
        if q.lead != NONE:
            group, left_ps = self.groups[q.lead], self.prefill_left_ps(q.lead)
            longs = {
                "long_left": half(left_ps / 1e12, 10),
                "long_done": 1 - left_ps / group.work_ps,
                "long_degree": group.degree / 32,
                "long_preemptions": half(int(self.state.requests[group.slot].preemptions), 4),
                "long_age": half(self.age_s(group.slot), 60),
            }
        return found | longs

    def is_chosen(self, r: int) -> bool:
        control = {"place": "placement", "start": "start"}.get(self.kind)
        return control not in (None, *self.config.agent_controls) and bool(
            split(self.env.action_masks(), self.env.action_space.nvec)[0][r]
        )

    def request(self) -> dict[str, float]:
        found = {feature.name: 0.0 for feature in spaces.REQUEST}
        if self.kind == "none":
            return found
        found[self.kind] = 1.0
        if self.kind == "roles":
            return found
        slot = int(self.cluster.queue) if self.kind == "place" else self.longs[0]
        request = self.state.requests[slot]
        found |= {
            "input_tokens_log": log2(int(request.input_tokens), 20),
            "input_tokens": half(int(request.input_tokens), 2048),
            "age": half(self.age_s(slot), 1),
        }
        if self.config.oracle_lengths:
            found |= {"known": 1.0, "output_tokens_log": log2(int(request.output_tokens), 16)}
        return found

    def waiting_long(self, k: int) -> dict[str, float]:
        if k >= len(self.longs):
            return {feature.name: 0.0 for feature in spaces.WAITING_LONG}
        request, oracle = self.state.requests[self.longs[k]], self.config.oracle_lengths
        tokens = int(request.input_tokens) + (int(request.output_tokens) - 1 if oracle else 0)
        return {
            "there": 1.0,
            "input_tokens": log2(int(request.input_tokens), 20),
            "age": half(self.age_s(self.longs[k]), 60),
            "known": float(oracle),
            "output_tokens": log2(int(request.output_tokens), 16) if oracle else 0.0,
            "fewest_replicas": min(-(-tokens // self.rules.capacity_tokens) / len(self.replicas), 1.0),
        }

    def whole(self) -> dict[str, float]:
        log = self.env.log()
        short, now_s = ~log.is_long, self.now_ps / 1e12
        start_s = now_s - log.facts.end_s
        arrival = log.seconds("arrival") + start_s
        waits = short & (log.ps["start"] == NONE)
        unanswered = arrival[short & (log.ps["first_token"] == NONE)]
        weights = np.exp(-(now_s - arrival) / 60) / 60
        classes = Counter(q.place_class for q in self.replicas)
        queued = np.count_nonzero(short & (log.ps["placed"] == NONE))
        return {name: classes[k] / len(self.replicas) for k, name in enumerate(CLASSES)} | {
            "queued": half(queued, 16),
            "unstarted": half(int(waits.sum()), 64),
            "late": half(int((now_s - arrival[waits] > self.config.reward.tail_s + 1e-9).sum()), 16),
            "oldest": half(now_s - unanswered.min(), 1) if len(unanswered) else 0.0,
            "waiting_longs": half(len(self.longs), 8),
            "open_longs": half(int((log.is_long & (log.ps["finish"] == NONE)).sum()), 8),
            "elapsed": half(now_s - self.last_s, 1),
            "arrival_rate": half(float(weights.sum()), 1),
            "token_rate": half(float((weights * log.counts["input_tokens"]).sum()), 10000),
        }


def check(part: str, found: Any, features: tuple[spaces.Feature, ...], expected: dict[str, float]) -> None:
    assert set(expected) == {feature.name for feature in features}
    for feature, value in zip(features, found, strict=True):
        assert value == pytest.approx(expected[feature.name], abs=2e-6), f"{part}.{feature.name}"


@pytest.mark.parametrize("seed", range(16))
def test_features_are_what_their_tables_say(seed: int, tmp_path: Path) -> None:
    settings = random_world(tmp_path, 1500 + seed, 120)
    settings |= {"oracle_lengths": seed % 2 == 1, "reward": {"tail_s": 0.1}}
    settings["episode"] = {"requests": 90, "random_start": True}
    if seed % 4 == 3:
        settings["episode"]["warm_up_s"] = 0.3
    env, random = make_env(**settings), np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    last_s = info["now_s"] if seed % 4 == 3 else env._copies.arrays.copies.start_ps[0] / 1e12
    for _ in range(70):
        oracle = Oracle(env, last_s)
        for r, row in enumerate(observation["replicas"].reshape(-1, len(spaces.REPLICA))):
            check(f"replica {r}", row, spaces.REPLICA, oracle.replica(r))
        for k, row in enumerate(observation["waiting_longs"].reshape(-1, len(spaces.WAITING_LONG))):
            check(f"long {k}", row, spaces.WAITING_LONG, oracle.waiting_long(k))
        check("request", observation["request"], spaces.REQUEST, oracle.request())
        check("cluster", observation["cluster"], spaces.CLUSTER, oracle.whole())
        if info["decision"] == "none":
            break
        first = env._copies.arrays.copies.decisions[0] == 0
        last_s = last_s if first else info["now_s"]
        observation, _, _, _, info = env.step(at_random(env, random))
