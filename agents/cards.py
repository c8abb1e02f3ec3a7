"""Model cards: what an agent was trained on, and how good it was on windows that it had never seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.checkpoint import TrainedAgent
from pecgym.envs.config import TERMS
from pecgym.policies.agents import CLUSTER_LEVEL, REPLICA_LEVEL

_OF_TERM = {"tail_s": "tail", "slo_ttft_s": "slo"}
"""Settings of a reward, by the term that they belong to."""
SHOWN = {
    CLUSTER_LEVEL: {
        "short_queueing_delay_p99_s": "p99 queueing delay of shorts, s",
        "short_throughput_rps": "short throughput, requests/s",
        "long_jct_mean_s": "mean completion time of longs, s",
        "starved_fraction": "longs that were not served",
    },
    REPLICA_LEVEL: {"makespan_s": "makespan, s"},
}
"""By level, metrics of a card, by their keys in comparison.json."""

_NETWORKS = {
    "set": ("a set encoder", "any number of"),
    "mlp": ("one perceptron over all features", "that number alone of"),
}
"""By network, what it is, and what its weights work for."""
_ROWS = {CLUSTER_LEVEL: "replicas", REPLICA_LEVEL: "waiting requests and residents"}
_SEEDS = {CLUSTER_LEVEL: ("generator hours", "hours"), REPLICA_LEVEL: ("workload seeds", "seeds")}


def card(agent: TrainedAgent, run: Mapping[str, Any], commit: str, tests: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown of an agent's card.

    run: the summary.json of its training. commit: of the code that trained it. tests: by title, a comparison.json in
    which the agent, or all training seeds of its kind together, was compared with a baseline.
    """
    notes = agent.trained
    load = "" if notes.get("load") is None else f" {notes['load']:g}"
    network, number = _NETWORKS[agent.form.network]
    seeds, each = _SEEDS[agent.level]
    lines = [
        f"# {agent.name}",
        "",
        f"Maskable PPO with {network}, for {notes['model']} on {notes['cluster']} in the scenario "
        f"{notes['scenario']}{load}. The weights work for {number} {_ROWS[agent.level]}.",
        "",
        "| | |",
        "|---|---|",
        f"| trained by | `python scripts/train.py recipe={notes['recipe']} seed={notes['seed']}`, {run['steps']:,} "
        f"decisions after imitation, commit {commit} |",
        f"| data | first 60% of {seeds} {_listed(notes['hours'])} of {notes['workload']}, windows of "
        f"{notes['requests']} requests |",
        f"| chosen | at {notes['steps']:,} decisions, as the best on the next 20% of the same {each}: score "
        f"{notes['score']:+.3f} against its reference policy (docs/train.md) |",
        f"| decides | {_decided(agent)} |",
        f"| reward | {_rewards(agent.settings['reward'])} |",
        "",
    ]
    for title, comparison in tests.items():
        lines += [*_compared(title, comparison, agent), ""]
    return "\n".join(lines)


def _decided(agent: TrainedAgent) -> str:
    if agent.level == REPLICA_LEVEL:
        known = "knows" if agent.settings.get("oracle_lengths") else "does not know"
        return f"who joins the batch and who is evicted; all else by the engine; it {known} the lengths of outputs"
    return f"{_listed(agent.settings['agent_controls'])}; all else by `{agent.settings['policy']}`"


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))


def _rewards(weights: Mapping[str, float]) -> str:
    """The weights that are not zero, and the settings that then matter."""
    shown = [f"{term} {weights[term]:g}" for term in TERMS if weights.get(term)]
    shown += [f"{key} {weights[key]:g}" for key, term in _OF_TERM.items() if weights.get(term) and key in weights]
    return ", ".join([*shown, f"discount_per_s {weights.get('discount_per_s', 1.0):g}"])


def _compared(title: str, comparison: Mapping[str, Any], agent: TrainedAgent) -> list[str]:
    """The table of one comparison: of the agent, or of the seeds that were pooled with it."""
    name = agent.name
    found = [each for each in comparison["policies"] if name in (each["policy"], *each["policies"])]
    lines = []
    for each in found:
        lines += [
            f"{title}: `{each['policy']}` ({_seeds(len(each['policies']))}) and `{comparison['baseline']}` on the "
            f"same {comparison['pairs']} windows; interquartile means, paired difference with its 95% interval:",
            "",
            f"| | {comparison['baseline']} | agent | difference | |",
            "|---|---|---|---|---|",
        ]
        for key, heading in SHOWN[agent.level].items():
            of = each["metrics"].get(key)
            if of is not None:
                lines.append(_row(heading, of))
    return lines


def _seeds(n: int) -> str:
    return "one training seed" if n == 1 else f"{n} training seeds together"


def _row(heading: str, of: Mapping[str, Any]) -> str:
    found = of["difference"]
    interval = "" if found["interval"] is None else " [{:.3g}, {:.3g}]".format(*found["interval"])
    before, after = (of[which]["iqm"] for which in ("baseline", "policy"))
    return f"| {heading} | {before:.3g} | {after:.3g} | {found['iqm']:+.3g}{interval} | {of['verdict']} |"
