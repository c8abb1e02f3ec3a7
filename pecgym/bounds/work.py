"""What each request of a workload takes at least: time, and work in replica-seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pecgym.bounds import solo
from pecgym.bounds.limits import Limits, limits_of
from pecgym.bounds.prices import SAFETY, Amounts, Prices, highest_prices
from pecgym.costs import STRATEGIES, GroupCosts, Profile
from pecgym.engine import EngineSettings
from pecgym.errors import SpecError
from pecgym.workload import Trace

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LeastWork:
    """Of every request of a workload, in its order, float64[n] picoseconds; lower bounds under any policy.

    Attributes:
        prefill_ps, decode_ps: time to its first token, and from there to its last, alone on the cluster.
        prefill_work_ps: work until its first token, one replica's time counted once. Valid for all requests together.
        work_ps: all its work, likewise.
        of_class_ps: all its work, valid for the requests of its class together, the other class left out.
    """

    prefill_ps: Floats
    decode_ps: Floats
    prefill_work_ps: Floats
    work_ps: Floats
    of_class_ps: Floats


def least_work(
    trace: Trace, n_replicas: int, profile: Profile, settings: EngineSettings, costs: GroupCosts | None
) -> LeastWork:
    """The least time and work of every request on `n_replicas` replicas.

    profile: with the engine's overhead. costs: of groups, needed for longs. Raises SpecError for a long that no group
    holds.
    """
    limits = limits_of(trace, profile, settings)
    is_long = trace.is_long
    columns = np.zeros((5, len(trace)))
    shorts = trace.take(~is_long)
    steps = np.maximum(trace.output_tokens - 1, 0)
    long_steps = steps[is_long]
    amounts = _amounts(shorts)
    prefills = highest_prices(Amounts(amounts.prompt_tokens, amounts.prompts, 0, 0), limits, profile)
    beside_longs = Amounts(
        amounts.prompt_tokens, amounts.prompts, amounts.decodes + float(long_steps.sum()), amounts.kv_tokens
    )
    prices = highest_prices(beside_longs, limits, profile)
    if len(shorts):
        prompts, contexts = shorts.input_tokens, _Contexts(shorts)
        all_work = _prompt_work_ps(prompts, prices, limits, profile)
        all_work = all_work + contexts.sums(lambda held: _token_work_ps(held, prices, limits, profile))
        columns[0, ~is_long] = solo.prefill_ps(prompts, limits, profile)
        columns[1, ~is_long] = contexts.sums(lambda held: solo.decode_ps(held, limits, profile))
        columns[2, ~is_long] = _prompt_work_ps(prompts, prefills, limits, profile)
        columns[3:, ~is_long] = all_work
    if len(shorts) < len(trace):
        if costs is None:
            raise SpecError(f"workload {trace.name!r} has long requests: their work needs the costs of groups")
        columns[:, is_long] = _of_longs(trace.take(is_long), n_replicas, prices, limits, profile, settings, costs)
    return LeastWork(*(columns * SAFETY))


def _amounts(trace: Trace) -> Amounts:
    prompts, steps = trace.input_tokens.astype(np.float64), trace.output_tokens - 1.0
    reads = steps * prompts + steps * (steps - 1) / 2
    return Amounts(float(prompts.sum()), float(len(trace)), float(steps.sum()), float(reads.sum()))


class _Contexts:
    """The contexts at which requests emit their second to last token: each from its prompt on, one token apart."""

    def __init__(self, trace: Trace) -> None:
        self._first = trace.input_tokens
        self._stop = trace.input_tokens + trace.output_tokens - 1
        self._all = np.arange(int(self._stop.max()))

    def sums(self, of_contexts: Any) -> Any:
        """The sum over each request's contexts, float64[n], of a function of contexts, int64[m] to float64[m]."""
        until = np.concatenate([[0.0], np.cumsum(of_contexts(self._all))])
        return until[self._stop] - until[self._first]


def _prompt_work_ps(tokens: Any, prices: Prices, limits: Limits, profile: Profile) -> Any:
    chunks = solo.fewest_chunks(tokens, limits)
    past = solo.past_tokens(tokens, chunks, limits)
    return (
        tokens * prices.prompt_token_ps
        + chunks * (prices.prompt_ps + profile.prefill_seq_ps)
        + past * float(profile.prefill_kv_ps)
        + solo.attention_ps(tokens, profile)
    )


def _token_work_ps(contexts: Any, prices: Prices, limits: Limits, profile: Profile) -> Any:
    """Work of the next token: of a decode or, after an eviction, of a prompt of one token more."""
    decode = prices.decode_ps + profile.decode_seq_ps + contexts * (prices.kv_token_ps + profile.decode_kv_ps)
    return np.minimum(decode, _prompt_work_ps(contexts + 1, prices, limits, profile))


def _of_longs(
    longs: Trace,
    n_replicas: int,
    prices: Prices,
    limits: Limits,
    profile: Profile,
    settings: EngineSettings,
    costs: GroupCosts,
) -> Floats:
    """The rows of LeastWork for longs, float64[5, n], each the least over groups and strategies.

    Every member of a group works on the prefill alone. An iteration of the decode takes on each member what it takes
    there beside shorts, one decode more, and then the group's share of the context and its all-reduce.
    """
    step = float(profile.g_ps(1) + profile.decode_base_ps + profile.decode_seq_ps)
    shared_step = prices.decode_ps + profile.decode_seq_ps
    steps = longs.output_tokens - 1.0
    reads = steps * longs.input_tokens + steps * (steps - 1) / 2
    peak = longs.input_tokens + longs.output_tokens - 1
    block = settings.resolved(profile).block_tokens
    assert block is not None
    least = np.full((5, len(longs)), np.inf)
    for degree in range(1, min(n_replicas, costs.max_degree) + 1):
        share = (peak + degree - 1) // degree
        holds = (share + block - 1) // block * block <= limits.kv_tokens
        for nodes in range(1, costs.max_nodes + 1):
            shape = int(costs.shape_index[degree, nodes])
            if shape < 0 or not holds.any():
                continue
            prefill = np.maximum(_table_ps(longs.input_tokens, shape, costs), 1.0)
            group = steps * float(costs.decode_sync_ps[shape]) + reads * float(costs.decode_kv_ps[degree])
            alone, beside = group + steps * step, group + steps * shared_step
            found = (prefill, alone, degree * prefill, degree * (prefill + beside), degree * (prefill + alone))
            least = np.where(holds, np.minimum(least, found), least)
    if np.isinf(least).any():
        row = int(np.argmax(np.isinf(least[0])))
        raise SpecError(f"a long of {int(peak[row])} tokens fits no group of {n_replicas} replicas")
    return least


def _table_ps(tokens: Any, shape: int, costs: GroupCosts) -> Any:
    """The prefill on a group with the best strategy (GroupCosts.prefill_ps)."""
    i = np.minimum(tokens // costs.step_tokens, costs.prefill_table_ps.shape[2] - 2)
    table = costs.prefill_table_ps[: len(STRATEGIES), shape]
    below, above = table[:, i], table[:, i + 1]
    rest = tokens - i * costs.step_tokens
    return (below + (above - below) * rest // costs.step_tokens).min(axis=0).astype(np.float64)
