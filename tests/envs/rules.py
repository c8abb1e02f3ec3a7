"""What the documentation says that an agent may do, in plain code over the state of a simulator, and what it means."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types

from pecgym.engine import Simulator
from pecgym.engine.compiled import compile_cached
from pecgym.engine.entry import POLICY, compile_policy
from pecgym.engine.reference import address_of, function_reader, state_at
from pecgym.engine.state import (
    DECODING_LONG,
    GATHERING_LONG,
    LONG_ROLE,
    NONE,
    OPEN,
    POOL,
    PREFILLING_LONG,
    RESERVED,
    SUSPENDED_LONG,
    WAIT,
)
from pecgym.envs.config import EnvConfig
from pecgym.policies import Policy

SERVE_A_LONG = (GATHERING_LONG, SUSPENDED_LONG, PREFILLING_LONG, DECODING_LONG)
LOW_20_BITS = (1 << 20) - 1
N_STRATEGIES = 4


_policy_at = function_reader(POLICY)


def _ask(function: int, state: int, slot: int) -> int:
    return _policy_at(function)(state_at(state), slot)


@cache
def asking() -> Any:
    """Asks a compiled policy from Python."""
    return compile_cached(_ask, types.int64(types.int64, types.int64, types.int64))


class Rules:
    """What may be done at a decision of one simulator that is asked by an environment."""

    def __init__(self, simulator: Simulator, config: EnvConfig, policy: Policy) -> None:
        self.simulator, self.config = simulator, config
        self.controls = set(config.agent_controls)
        state = simulator.state
        self.n = len(state.replicas)
        self.classes = state.replicas.view(np.ndarray)["place_class"].tolist()
        settings = state.settings.view(np.ndarray)[0]
        self.capacity_tokens = int(settings["capacity_blocks"] * settings["block_tokens"])
        self.degree_rule = int(settings["degree_rule"])
        reserved = LONG_ROLE in state.replicas.view(np.ndarray)["role"]
        self.able = [r for r in range(self.n) if self.classes[r] == (RESERVED if reserved else OPEN)]
        self.largest = min(len(self.able), 32)
        self.choose, self.start = policy.choose, policy.start_rule
        self.options = [0, *(2**k for k in range(6) if 2**k <= min(self.n, 32))]

    def longs(self) -> list[int]:
        """Slots of the waiting longs in their order."""
        requests, root = self.simulator.state.requests, self.simulator.state.cluster[0].longs
        found, todo = [], [] if root == NONE else [int(root)]
        while todo:
            slot = todo.pop()
            while slot != NONE:
                found.append(slot)
                todo.append(int(requests.child[slot]))
                slot = int(requests.sibling[slot])
        return sorted(found, key=lambda slot: (requests.key[slot], requests.sequence[slot]))

    def fewest(self, slot: int) -> int:
        """Replicas whose memories hold a long."""
        request = self.simulator.state.requests[slot]
        return -(-int(request.input_tokens + request.output_tokens - 1) // self.capacity_tokens)

    def answer(self, function: Any, slot: int) -> int:
        """What the reference policy says."""
        compiled = compile_policy(function)
        return int(asking()(address_of(compiled, POLICY), self.simulator.reference, slot))

    def allowed(self, kind: str) -> list[list[int]]:
        """The values of every component that are allowed at a decision of that kind."""
        if kind == "place":
            return self._places()
        if kind == "start":
            return self._starts()
        wait = [] if self.n > 1 and not self.config.allow_wait else [self.n]
        return [[*range(1, self.n), *wait], [0], [0], [0], [0], [0]]

    def _places(self) -> list[list[int]]:
        if "placement" in self.controls:
            targets = [r for r in range(self.n) if self.classes[r] in (OPEN, *SERVE_A_LONG)]
            wait = [self.n] if self.config.allow_wait or not targets else []
        else:
            answer = self.answer(self.choose, int(self.simulator.state.cluster[0].queue))
            targets, wait = ([], [self.n]) if answer == WAIT else ([answer & LOW_20_BITS], [])
        beside = any(self.classes[r] in SERVE_A_LONG for r in targets)
        modes = [0, 1] if "preemption" in self.controls and beside else [0]
        decode = [0, 1] if "disaggregation" in self.controls and targets and POOL in self.classes else [0]
        return [targets + wait, modes, decode, [0], [0], [0]]

    def _starts(self) -> list[list[int]]:
        longs = self.longs()[: self.config.n_longs if "order" in self.controls else 1]
        rule_fits = self.degree_rule <= self.largest or "start" not in self.controls
        if "start" in self.controls:
            any_degree = rule_fits or "sp_degree" in self.controls
            indices = [k for k, slot in enumerate(longs) if self.fewest(slot) <= self.largest and any_degree]
            anchors, wait = self.able, [self.n] if self.config.allow_wait else []
        else:
            answers = [self.answer(self.start, slot) for slot in longs]
            indices = [k for k, answer in enumerate(answers) if answer != WAIT]
            anchors, wait = [answers[k] & LOW_20_BITS for k in indices[:1]], []
            if indices and self.config.allow_wait:
                indices = sorted({0, *indices})  # the first, which the reference policy lets wait
        if not indices:
            return [[self.n], [0], [0], [0], [0], [0]]
        degrees = [0] if rule_fits else []
        if "sp_degree" in self.controls:
            degrees += [j for j, degree in enumerate(self.options) if j and degree <= self.largest]
        strategies = list(range(N_STRATEGIES)) if "sp_strategy" in self.controls else [0]
        return [anchors + wait, [0], [0], indices, degrees, strategies]


def as_mask(allowed: list[list[int]], sizes: Any) -> list[int]:
    """The mask, of all components after one another."""
    mask: list[int] = []
    for values, size in zip(allowed, sizes, strict=True):
        mask += [int(value in values) for value in range(size)]
    return mask
