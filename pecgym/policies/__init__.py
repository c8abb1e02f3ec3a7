"""Reference policies by name, and a user's own by import path."""

from __future__ import annotations

import importlib
from typing import Any

from pecgym.errors import SpecError
from pecgym.policies import baselines, by_length, dispatch, pecsched, planner
from pecgym.policies.agents import is_agent_name, load_agent
from pecgym.policies.base import Policy, PythonPolicy
from pecgym.policies.parameters import split_name
from pecgym.policies.view import WAIT

__all__ = ["WAIT", "Policy", "PythonPolicy", "load_policy", "policy_names"]

_REGISTRY = {
    policy.name: policy
    for module in (baselines, pecsched, dispatch, by_length, planner)
    for policy in vars(module).values()
    if isinstance(policy, Policy)
}


def policy_names() -> list[str]:
    """The reference policies."""
    return sorted(_REGISTRY)


def load_policy(
    policy: str | Policy | PythonPolicy | type, model: str | None = None, scenario: str | None = None
) -> Policy:
    """The policy of that name, or at an import path such as "my_package.my_module:MyPolicy", or an agent ("ppo",
    "ppo/<name or path>"); in braces behind a name or import path, changes of its rules for longs (LongRules) or of its
    own parameters: "pecsched{sp_degree:7,long_order:shortest}".

    An import path, or an object given directly, may be a `Policy`, or a class or object with `act(decision)`. model,
    scenario: names of what is served, by which "ppo" alone is chosen. Raises SpecError for what does not exist, cannot
    be imported, or cannot be changed so.
    """
    if isinstance(policy, Policy):
        return policy
    if not isinstance(policy, str):
        return _from_object(policy, getattr(policy, "__name__", type(policy).__name__))
    if policy in _REGISTRY:
        return _REGISTRY[policy]
    if is_agent_name(policy):
        driver = importlib.import_module("pecgym.envs.driver")  # it builds on policies
        found_agent: Policy = driver.agent_policy(policy, load_agent(policy, model, scenario))
        return found_agent
    name, given = split_name(policy)
    if given and not is_agent_name(name):  # an agent knows the rules that it was trained under
        return load_policy(name).with_parameters(policy, given)
    if ":" not in policy:
        raise SpecError(
            f"policy {policy!r} does not exist; choose one of {', '.join(policy_names())}, "
            "an agent: ppo or ppo/NAME, or name your own by import path: package.module:name"
        )
    module_name, _, attribute = policy.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise SpecError(f"policy {policy!r} cannot be imported: {error}") from error
    return _from_object(found, policy)


def _from_object(found: Any, name: str) -> Policy:
    if isinstance(found, Policy):
        return found
    if isinstance(found, type):
        found = found()
    if not callable(getattr(found, "act", None)):
        raise SpecError(f"policy {name!r}: must be a pecgym.Policy, or a class with a method act(decision)")
    own = {key: getattr(found, key) for key in ("rules", "order", "reads_lengths") if hasattr(found, key)}
    return Policy(name=str(getattr(found, "name", name)), load="queued_tokens", actor=found, **own)
