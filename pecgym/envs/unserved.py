"""What a truncated episode leaves to be done, so that to refuse is never cheaper than to serve.

Every request that is unfinished is charged with the rest of its work as if it were served alone, in the costliest way
that could be chosen: a short without the company of a batch, a long on the group and with the strategy that take most
GPU time. Energy is charged at the power of prefills (of decodes, if they draw more), money for those GPUs.
"""

from __future__ import annotations

import math
from typing import Any

from pecgym.cluster import Cluster
from pecgym.costs import STRATEGIES, Profile
from pecgym.engine import Simulator
from pecgym.engine.state import NONE, PREFILL, RUNNING
from pecgym.envs.spaces import degree_options
from pecgym.scenario import group_work_s
from pecgym.units import PS_PER_S


def unserved_replica_s(cluster: Cluster, simulator: Simulator) -> float:
    """Replica-seconds of work that the unfinished requests of a simulator would still take, each alone."""
    per_node = cluster.spec.gpus_per_node // cluster.profile.tp
    decoded = _decoded_since_noted(simulator)
    total_s = 0.0
    for request in simulator.unfinished():
        if request.is_long:
            left = _prefill_left(simulator, request)
            total_s += _long_s(request, cluster, per_node, _fewest(simulator, request), left)
        else:
            total_s += _short_s(request, cluster.profile, decoded.get(int(request.row), 0))
    return total_s


def _decoded_since_noted(simulator: Simulator) -> dict[int, int]:
    """By row, the tokens that resident decodes have emitted beyond what their counters say."""
    state = simulator.state
    decoded: dict[int, int] = {}
    for r, replica in enumerate(state.replicas):
        running = 0
        if replica.status == RUNNING and replica.with_decodes:
            elapsed_ps = int(state.cluster[0].now_ps - replica.started_ps - replica.first_extra_ps)
            slope_ps, base_ps = float(replica.slope_ps), float(replica.base_ps)
            linear = base_ps - slope_ps / 2
            root = math.sqrt(linear * linear + 2 * slope_ps * max(elapsed_ps, 0))
            running = int((root - linear) / slope_ps) if slope_ps else int(max(elapsed_ps, 0) // max(base_ps, 1))
        for slot in state.decodes[r, : replica.n_decodes]["slot"]:
            request = state.requests[slot]
            decoded[int(request.row)] = int(replica.decode_steps - request.join_step) + running
    return decoded


def _short_s(request: Any, profile: Profile, decoded: int) -> float:
    """Of a short that goes on alone; decoded: tokens that its counters do not know of."""
    prompt_ps = 0
    if not request.decoding:
        chunk = int(request.prompt_tokens - request.computed_tokens)
        prompt_ps = profile.iteration_ps([(chunk, int(request.computed_tokens))], [])
    left = int(request.output_tokens - request.emitted_tokens) - decoded
    steps = max(left if request.decoding else left - 1, 0)
    context = int(request.computed_tokens + decoded if request.decoding else request.prompt_tokens)
    each_ps = profile.g_ps(1) + profile.decode_base_ps + profile.decode_seq_ps
    read_tokens = steps * context + steps * (steps - 1) // 2
    return (prompt_ps + steps * each_ps + read_tokens * profile.decode_kv_ps) / PS_PER_S


def _fewest(simulator: Simulator, request: Any) -> int:
    settings = simulator.state.settings[0]
    capacity = int(settings.capacity_blocks * settings.block_tokens)
    return -(-int(request.input_tokens + request.output_tokens - 1) // capacity)


def _prefill_left(simulator: Simulator, request: Any) -> float:
    """The part of a long's prefill that is to be done."""
    if request.first_token_ps != NONE:
        return 0.0
    if request.start_ps == NONE:
        return 1.0
    state = simulator.state
    group = state.groups[request.replica]
    done_ps = int(group.done_ps)
    if group.phase == PREFILL:
        done_ps += int(state.cluster[0].now_ps - state.replicas[request.replica].started_ps)
    return 1.0 - min(done_ps / int(group.work_ps), 1.0)


def _long_s(request: Any, cluster: Cluster, per_node: int, fewest: int, prefill_left: float) -> float:
    """Of a long, of whose prefill a part is left; its decode is charged in full."""
    costs, n_replicas = cluster.group_costs, cluster.n_replicas
    assert costs is not None
    tokens = int(request.input_tokens), int(request.output_tokens)
    most_s = 0.0
    for degree in {max(fewest, option) for option in degree_options(n_replicas)}:
        if degree > min(costs.max_degree, n_replicas):
            continue
        nodes = min(degree, costs.max_nodes, -(-n_replicas // per_node))
        for strategy in range(len(STRATEGIES)):
            prefill_s, decode_s = group_work_s(*tokens, costs, cluster.profile, degree, nodes, strategy)
            most_s = max(most_s, prefill_left * prefill_s + decode_s)
    return most_s
