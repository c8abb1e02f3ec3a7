"""Policies of tests that change roles at random."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pecgym.policies.baselines import RESERVATION
from pecgym.policies.view import n_replicas, random_below

RESERVES_AT_RANDOM = "tests.engine.role_policies:RANDOM_RESERVATION"


def any_number(state, slot):  # type: ignore[no-untyped-def]
    return random_below(state, n_replicas(state) + 1)


def naive_any_number(cluster: Any) -> int:
    return int(cluster.random_below(len(cluster.replicas) + 1))


RANDOM_RESERVATION = replace(RESERVATION, name=RESERVES_AT_RANDOM, pool=any_number)
