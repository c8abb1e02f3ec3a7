"""Changes of one rule each, which the engine's tests must notice; see mutation_check.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One change of one line. `before` must occur exactly once in `file`, which is relative to pecgym/engine."""

    name: str
    file: str
    before: str
    after: str


MUTATIONS = (
    Mutation("jump-one-step-too-far", "memory.py", "        if left < 0:\n", "        if left < -1:\n"),
    Mutation(
        "jump-ignores-partial-blocks",
        "memory.py",
        "if replica.n_decodes * ((wanted + block - 1) // block) <= free:",
        "if replica.n_decodes * (wanted // block) <= free:",
    ),
    Mutation(
        "growth-phase-sign",
        "memory.py",
        "    phase = (-replica.decode_steps) % block\n    for _ in range(steps",
        "    phase = replica.decode_steps % block\n    for _ in range(steps",
    ),
    Mutation(
        "peak-one-token-more",
        "memory.py",
        "        return request.input_tokens + request.output_tokens - 1\n",
        "        return request.input_tokens + request.output_tokens\n",
    ),
    Mutation(
        "history-forgets-the-prompt",
        "memory.py",
        "            return max(request.prompt_tokens, past[1] // past[0])\n",
        "            return past[1] // past[0]\n",
    ),
    Mutation(
        "swapped-in-without-its-next-token",
        "memory.py",
        "        held = request.computed_tokens + 1\n",
        "        held = request.computed_tokens\n",
    ),
    Mutation(
        "no-watermark",
        "memory.py",
        "    return reserved_now(state, r, steps_ahead) + need + settings.watermark_blocks <= settings.capacity_blocks",
        "    return reserved_now(state, r, steps_ahead) + need <= settings.capacity_blocks",
    ),
    Mutation("cut-run-one-later", "iteration.py", "if done == 0 or run_ps(replica, done) < elapsed:", "if True:"),
    Mutation(
        "cut-run-never",
        "cluster.py",
        "    elif replica.queue == slot or state.settings[0].queue_order != ORDER_FCFS:\n",
        "    elif state.settings[0].queue_order != ORDER_FCFS:\n",
    ),
    Mutation(
        "inverse-not-corrected",
        "iteration.py",
        "    while run_ps(replica, k) > elapsed_ps:\n        k -= 1\n",
        "",
    ),
    Mutation(
        "held-back-for-one-iteration-too-many",
        "batch_waiting.py",
        "replica.held_back < settings.batch_wait_iterations",
        "replica.held_back <= settings.batch_wait_iterations",
    ),
    Mutation(
        "run-past-the-end-of-waiting", "iteration.py", "        if replica.holding_back == 1:\n", "        if False:\n"
    ),
    Mutation(
        "held-back-counted-once-in-a-run",
        "batch.py",
        "replica.held_back += steps * replica.holding_back",
        "replica.held_back += replica.holding_back",
    ),
    Mutation("waiting-counts-no-decodes", "batch_waiting.py", "    tokens = replica.n_decodes\n", "    tokens = 0\n"),
    Mutation("held-back-beside-a-long", "batch_waiting.py", "    if colocated == 0 and ", "    if "),
    Mutation("steady-ignored", "iteration.py", "replica.with_prefills == 0 and steady:", "replica.with_prefills == 0:"),
    Mutation(
        "attention-rounded-up",
        "iteration.py",
        "time += (pairs * costs.attention_ps_per_1024_pairs) >> 10",
        "time += (pairs * costs.attention_ps_per_1024_pairs + 1023) >> 10",
    ),
    Mutation(
        "victim-tie-to-the-oldest",
        "batch.py",
        "(rank == best_rank and request.admission > best_admission)",
        "(rank == best_rank and request.admission < best_admission)",
    ),
    Mutation(
        "displaced-tie-to-the-oldest",
        "batch.py",
        "key == worst_key and request.admission > worst_admission",
        "key == worst_key and request.admission < worst_admission",
    ),
    Mutation(
        "eviction-forgets-the-output",
        "residents.py",
        "            request.prompt_tokens = request.input_tokens + request.emitted_tokens\n",
        "            request.prompt_tokens = request.input_tokens\n",
    ),
    Mutation(
        "evicted-to-the-back-of-the-queue",
        "residents.py",
        "enqueue(state, r, slot, -1, -cluster.eviction_sequence)",
        "enqueue(state, r, slot, 1, cluster.eviction_sequence)",
    ),
    Mutation(
        "load-stale-after-a-prefill",
        "batch.py",
        "            replica.queued_tokens -= chunk\n            note_load(state, r)\n",
        "            replica.queued_tokens -= chunk\n",
    ),
    Mutation(
        "swapped-head-overtaken",
        "memory.py",
        "    if share == 0 or request.swapped != 0 or not is_seen(",
        "    if share == 0 or not is_seen(",
    ),
    Mutation(
        "swap-in-takes-no-time",
        "residents.py",
        "    if request.swapped == SWAPPED:\n        replica.swapped_tokens += request.computed_tokens\n",
        "",
    ),
    Mutation(
        "static-not-padded",
        "batch.py",
        "        member.leave_tokens = longest\n",
        "        member.leave_tokens = member.output_tokens\n",
    ),
    Mutation(
        "users-do-not-think",
        "arrivals.py",
        "        slot = take_row(state, cluster.now_ps + cluster.think_ps)\n",
        "        slot = take_row(state, cluster.now_ps)\n",
    ),
    Mutation(
        "policy-blind-to-prefills",
        "batch.py",
        "            note_load(state, r)\n            cluster.changed = 1\n",
        "            note_load(state, r)\n",
    ),
    Mutation(
        "tournament-tie-to-the-last",
        "tournament.py",
        "        if keys[right] < keys[left]:\n",
        "        if keys[right] <= keys[left]:\n",
    ),
    # Long requests, links and roles.
    Mutation(
        "operator-boundary-one-later",
        "groups.py",
        "boundary = (done + group.operator_ps - 1) // group.operator_ps * group.operator_ps",
        "boundary = (done // group.operator_ps + 1) * group.operator_ps",
    ),
    Mutation(
        "last-operator-interrupted",
        "groups.py",
        "        if boundary < group.work_ps:\n",
        "        boundary = min(boundary, group.work_ps)\n        if True:\n",
    ),
    Mutation("work-lost-on-suspension", "groups.py", "            group.done_ps = boundary\n", ""),
    Mutation(
        "decode-stopped-in-vain",
        "groups.py",
        "    runs_beside = preempt and fits(state, r, state.replicas[r].queue, 1)\n",
        "    runs_beside = preempt\n",
    ),
    Mutation("newcomer-does-not-cut-a-long-decode", "groups.py", "        cut_run(state, lead, NONE)\n", ""),
    Mutation(
        "share-held-by-the-lead-only",
        "groups.py",
        "        replica.used_blocks += group.share_blocks\n        r = replica.next_member\n",
        "        replica.used_blocks += group.share_blocks\n        r = NONE\n",
    ),
    Mutation(
        "resumed-while-a-member-runs",
        "groups.py",
        "        if replica.status == RUNNING or replica.used_blocks + needed >",
        "        if (replica.status == RUNNING and r == lead) or replica.used_blocks + needed >",
    ),
    Mutation(
        "switch-counts-as-busy",
        "groups.py",
        "        _end_segment(state, lead, group.stop_ps, SLICE_LONG_PREFILL)\n",
        "        _end_segment(state, lead, state.cluster[0].now_ps, SLICE_LONG_PREFILL)\n",
    ),
    Mutation(
        "prompts-draw-as-decodes",
        "batch.py",
        "run_ps(replica, steps), replica.with_prefills)",
        "run_ps(replica, steps), 0)",
    ),
    Mutation(
        "prompts-beside-a-long-draw-as-decodes",
        "groups.py",
        "now_ps - replica.started_ps, replica.with_prefills)",
        "now_ps - replica.started_ps, 0)",
    ),
    Mutation(
        "prefill-of-a-long-draws-as-decode",
        "groups.py",
        "end_ps - replica.started_ps, 1)",
        "end_ps - replica.started_ps, 0)",
    ),
    Mutation("swap-in-every-step-of-a-long", "groups.py", " or replica.evictions > evictions_before:\n", ":\n"),
    Mutation(
        "last-member-decides-the-step",
        "groups.py",
        "slowest = max(slowest, batch_ps(state, r, 1) + swapped * settings.swap_ps_per_token)",
        "slowest = batch_ps(state, r, 1) + swapped * settings.swap_ps_per_token",
    ),
    Mutation("group-grows-over-the-first-node", "groups.py", "    node = home\n", "    node = 0\n"),
    Mutation(
        "colocation-cap-ignored",
        "batch.py",
        "        budget = min(budget, settings.colocation_tokens)\n",
        "",
    ),
    Mutation(
        "new-head-of-a-queue-unnoticed", "cluster.py", "elif replica.queue == slot or", "elif replica.n_waiting == 1 or"
    ),
    Mutation("pushes-do-not-contend", "links.py", "link.free_ps = begin + duration", "link.free_ps = begin"),
    Mutation("push-begins-at-the-end", "links.py", "begin = max(replica.started_ps,", "begin = max(cluster.now_ps,"),
    Mutation(
        "push-holds-nothing",
        "links.py",
        "    replica.held_blocks += blocks_of(settings, request.prompt_tokens)\n",
        "    replica.used_blocks -= blocks_of(settings, request.prompt_tokens)\n",
    ),
    Mutation(
        "drain-skipped",
        "roles.py",
        "    if replica.n_requests == 0 and replica.incoming == 0 and replica.n_pushing == 0 and replica",
        "    if replica",
    ),
    Mutation(
        "drain-forgets-who-is-on-the-way",
        "roles.py",
        "    if replica.n_requests == 0 and replica.incoming == 0 and replica.n_pushing == 0 and replica",
        "    if replica.n_requests == 0 and replica",
    ),
    Mutation(
        "short-not-asked-again-after-a-start",
        "cluster.py",
        "                return BAD_ACTION\n            cluster.shorts_wait = 0\n",
        "                return BAD_ACTION\n",
    ),
    Mutation(
        "asked-again-after-the-run",
        "batch.py",
        "    if settings.ask_batches == ASK_MEMBERS and asks_who_joins(state, r):\n",
        "    if False:\n",
    ),
    Mutation("batch-begun-anew", "batch.py", "    if replica.composing == NOT_COMPOSING:\n", "    if True:\n"),
    Mutation(
        "chosen-as-first-of-the-batch",
        "batch.py",
        "        replica.with_prefills = left < budget\n        return",
        "        return",
    ),
    Mutation(
        "chosen-idleness",
        "batch_decisions.py",
        "        if k == WAIT and replica.n_decodes + replica.n_prefills > 0:\n",
        "        if k == WAIT:\n",
    ),
    Mutation(
        "evicted-from-the-batch",
        "batch_decisions.py",
        "        if request.chunk_tokens == 0 and request.admission > admission:\n",
        "        if request.admission > admission:\n",
    ),
    Mutation("asked-without-a-choice", "batch_decisions.py", "    if n == 1:\n        return own\n", ""),
    Mutation(
        "asked-without-a-slot",
        "batch_decisions.py",
        "    return replica.queue != NONE and replica.left_tokens > 0 and free_slots > 0\n",
        "    return replica.queue != NONE and replica.left_tokens > 0\n",
    ),
    Mutation(
        "order-not-looked-at-again",
        "batch.py",
        "    if replica.queue != NONE and _order_may_matter(state, r):\n",
        "    if False:\n",
    ),
    Mutation(
        "order-not-looked-at-beside-a-long",
        "groups.py",
        "        if replica.queue != NONE and changes_with_time(settings.queue_order):\n",
        "        if False:\n",
    ),
    Mutation(
        "guard-looks-at-anybody",
        "ordering.py",
        "        if state.requests[slot].sequence < state.requests[oldest].sequence:\n",
        "        if False:\n",
    ),
    Mutation(
        "guard-without-services",
        "ordering.py",
        "    return waited_ps * 1000.0 > settings.guard_permille * float(alone_ps)\n",
        "    return False\n",
    ),
    Mutation(
        "promotion-used-up-at-once",
        "residents.py",
        "    request.promoted_steps = max(request.promoted_steps - decoded, 0)\n",
        "    request.promoted_steps = 0\n",
    ),
    Mutation(
        "promotion-never-used-up",
        "residents.py",
        "    request.promoted_steps = max(request.promoted_steps - decoded, 0)\n",
        "",
    ),
    Mutation(
        "idle-since-the-arrival",
        "residents.py",
        "    request.waits_from_step = NONE\n    request.waiting_blocks",
        "    request.waiting_blocks",
    ),
    Mutation(
        "prompt-displaced-under-ltr",
        "batch.py",
        "    if settings.queue_order == ORDER_LTR and request.decoding == 0:\n",
        "    if settings.queue_order == ORDER_LTR and request.decoding == 0 and request.emitted_tokens > 0:\n",
    ),
    Mutation(
        "displaced-past-its-share",
        "batch.py",
        "1000 * emitted > settings.displace_permille * request.rank_tokens",
        "emitted > settings.displace_permille * request.rank_tokens",
    ),
    Mutation(
        "tail-forgotten",
        "ordering.py",
        "    score = 1000.0 * mean + beta * float(tail)\n",
        "    score = 1000.0 * mean\n",
    ),
    Mutation(
        "bins-in-order-of-their-first",
        "ordering.py",
        "                    key = requests[slot].sequence - NEVER_PS\n",
        "                    key = b - NEVER_PS\n",
    ),
    Mutation(
        "batch-across-bins",
        "batch.py",
        "        if settings.queue_order == ORDER_BINS and head.key",
        "        if False and head.key",
    ),
    Mutation(
        "timeout-of-the-first-in-order",
        "batch.py",
        "_oldest_placed_ps(state, r) + settings.static_timeout_ps",
        "head.placed_ps + settings.static_timeout_ps",
    ),
    Mutation(
        "prediction-takes-no-time",
        "arrivals.py",
        "    if request.prediction_ps > 0:\n",
        "    if request.prediction_ps < 0:\n",
    ),
    Mutation(
        "global-order-taken-once",
        "cluster.py",
        "        if moves:\n            _reorder_global",
        "        if False:\n            _reorder_global",
    ),
)
