"""Rules of which every environment has its own form; the kernel is compiled with those that the type of its arrays asks
for."""

from __future__ import annotations

from typing import Any

from numba.extending import overload

from pecgym.envs import actions, batch_actions, batch_observation, observation
from pecgym.envs.arrays import CLUSTER_ARRAYS, ClusterArrays


def _of_copy(cluster: Any, replica: Any) -> Any:
    """A rule of (c, i)."""

    def rule_of(c: Any, i: int) -> Any:
        return (cluster if isinstance(c, ClusterArrays) else replica)(c, i)

    @overload(rule_of, inline="always")  # type: ignore[untyped-decorator]
    def choose(c: Any, i: Any) -> Any:
        form = cluster if c == CLUSTER_ARRAYS else replica

        def applied(c: Any, i: Any) -> Any:
            return form(c, i)

        return applied

    return rule_of


def _of_state(cluster: Any, replica: Any) -> Any:
    """A rule of (c, i, state)."""

    def rule_of(c: Any, i: int, state: Any) -> Any:
        return (cluster if isinstance(c, ClusterArrays) else replica)(c, i, state)

    @overload(rule_of, inline="always")  # type: ignore[untyped-decorator]
    def choose(c: Any, i: Any, state: Any) -> Any:
        form = cluster if c == CLUSTER_ARRAYS else replica

        def applied(c: Any, i: Any, state: Any) -> Any:
            return form(c, i, state)

        return applied

    return rule_of


def _of_decision(cluster: Any, replica: Any) -> Any:
    """A rule of (c, i, state, kind)."""

    def rule_of(c: Any, i: int, state: Any, kind: int) -> Any:
        return (cluster if isinstance(c, ClusterArrays) else replica)(c, i, state, kind)

    @overload(rule_of, inline="always")  # type: ignore[untyped-decorator]
    def choose(c: Any, i: Any, state: Any, kind: Any) -> Any:
        form = cluster if c == CLUSTER_ARRAYS else replica

        def applied(c: Any, i: Any, state: Any, kind: Any) -> Any:
            return form(c, i, state, kind)

        return applied

    return rule_of


allow_one_each = _of_copy(actions.allow_one_each, batch_actions.allow_one_each)
take_first_allowed = _of_copy(actions.take_first_allowed, batch_actions.take_first_allowed)
observe = _of_state(observation.observe, batch_observation.observe)
consider = _of_decision(actions.consider, batch_actions.consider)
engine_action = _of_decision(actions.engine_action, batch_actions.engine_action)
reference_answer = _of_decision(actions.reference_answer, batch_actions.reference_answer)
reference_action = _of_decision(actions.reference_action, batch_actions.reference_action)
instead_of_invalid = _of_decision(actions.instead_of_invalid, batch_actions.instead_of_invalid)
