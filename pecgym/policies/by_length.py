"""Orders by output length: with the true lengths, an oracle, what perfect predictions would give; and with those of a
predictor (pecgym.predictors)."""

from __future__ import annotations

from pecgym.engine.orders import OrderRules
from pecgym.policies.base import Policy
from pecgym.policies.dispatch import to_least_loaded, to_startable

_PREDICTED = OrderRules(lengths="predicted")


def _global(name: str, order: str, source: str, rules: OrderRules = _PREDICTED) -> Policy:
    """The first of one global queue, in that order, to a replica that can start it; nobody who runs is displaced."""
    return Policy(name, to_startable, load="queued_tokens", global_order=order, order=rules, source=source)


def _local(name: str, order: str, source: str, rules: OrderRules = _PREDICTED, preemptive: bool = True) -> Policy:
    """To the replica with the fewest requests, whose queue has that order and, if preemptive, displaces who runs."""
    return Policy(
        name,
        to_least_loaded,
        load="requests",
        queue_order=order,
        preemptive=preemptive,
        order=rules,
        source=source,
    )


SJF = _global("sjf", "shortest", "shortest job first over one global queue; nobody who runs is preempted", OrderRules())
SRPT = _local(
    "srpt",
    "shortest_remaining",
    "shortest remaining processing time on every replica, fewest requests between replicas; preemptive",
    OrderRules(),
)
SPJF = _global("spjf", "shortest", "shortest predicted job first: SSJF, arXiv:2404.08509, without its guard")
SSJF = _global("ssjf", "ssjf", "SSJF, arXiv:2404.08509: shortest predicted job first, with the starvation guard")
TIE = _global("tie", "tie", "TIE, arXiv:2604.00499: predicted mean and tail, and time waited")
ONE_BIT = _global("one_bit", "one_bit", "predicted short before predicted long: Mitzenmacher, Queues with small advice")
SPRPT = _local("sprpt", "shortest_remaining", "shortest predicted remaining processing time; preemptive")
TRAIL = _local(
    "trail",
    "shortest_remaining",
    "TRAIL, arXiv:2410.01035, with the first estimate: who has done 0.8 of it is displaced no more",
    OrderRules(lengths="predicted", displace_share=0.8),
)
LTR = _local("ltr", "ltr", "LTR, arXiv:2408.15792: by predicted rank in every iteration; who starves is promoted")
SKIP_PREDICT = _local(
    "skip_predict",
    "skip_predict",
    "SkipPredict, arXiv:2402.03564: predicted short as they came, then the least predicted remaining; preemptive",
)
MULTI_BIN = _local(
    "multi_bin", "bins", "multi-bin batching, arXiv:2412.04504: static batches of one bin", preemptive=False
)
