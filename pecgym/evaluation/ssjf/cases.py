"""What is run: the plans of every part, and the rates at which they offer a load."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from pecgym.configs import EngineConfig, ScenarioConfig, WorkloadConfig
from pecgym.evaluation.plan import EvaluationPlan
from pecgym.evaluation.ssjf.cells import Cell, service_s
from pecgym.evaluation.ssjf.config import COMPARED, CONVERSATION, POLICIES, TARGETS, THEORY, SsjfConfig
from pecgym.workload.chat import CHAT, output_distribution

NONE, SLOTS, STATIC = "none", "slots", "static"
FREE_SWAP: dict[str, Any] = {"eviction": "swap", "swap_gb_per_s": float("inf")}
"""SSJF's setting knows no memory: who is displaced loses nothing."""


@dataclass(frozen=True)
class Case:
    """A row of the page.

    Attributes:
        part: of the study.
        key: of the case in its part, as in targets.yaml.
        title: what tables call it.
        predictor: None: the trace has no predictions.
        cells: one for each seed.
    """

    part: str
    key: str
    title: str
    predictor: str | None
    cells: tuple[Cell, ...]


def capacity_rps(batching: str, places: int) -> float:
    """Jobs per second that a server never stops completing when jobs in order of arrival never run out.

    One at a time or in slots each job takes its own time; a static batch as long as the longest of `places`.
    """
    tokens, share = output_distribution()
    if batching != STATIC:
        return float(places / (share @ service_s(tokens)))
    upto = share.cumsum()
    longest = upto**places
    longest[1:] -= upto[:-1] ** places
    return float(places / (longest @ service_s(tokens)))


def cases(config: SsjfConfig, plan: EvaluationPlan) -> list[Case]:
    """Those of the chosen parts. plan: policies of the part "policies"; model, cluster, engine, workload and seeds of
    the part "conversation"."""
    of = {TARGETS: _targets, POLICIES: _policies, CONVERSATION: _conversation, THEORY: _theory}
    return [case for part in config.parts for case in of[part](config, plan)]


def _chat(batching: str, places: int, policies: list[str], predictor: str | None, jobs: int, **of_chat: Any) -> Any:
    engine: dict[str, Any] = {
        NONE: EngineConfig(name="one_at_a_time", **FREE_SWAP),
        SLOTS: EngineConfig(name="slots", max_batch_requests=places),
        STATIC: EngineConfig(name="static", static_batch_size=places),
    }
    return EvaluationPlan(
        tuple(policies),
        model="llama-3.1-8b",
        cluster="a100_x1",
        engine=engine[batching],
        workload=WorkloadConfig(CHAT, requests=jobs, predictor=predictor, **of_chat),
        profile="ssjf-slots" if batching == SLOTS else "ssjf-linear",
    )


def _cells(plan: EvaluationPlan, runs: int) -> tuple[Cell, ...]:
    return tuple(Cell(replace(plan, seeds=(seed,)), seed, slowdown=True) for seed in range(runs))


def _targets(config: SsjfConfig, plan: EvaluationPlan) -> Iterator[Case]:
    own, predictor = config.targets, config.predictor

    def case(key: str, title: str, plan: EvaluationPlan) -> Case:
        return Case(TARGETS, key, title, predictor, _cells(plan, own.runs))

    drain = f"{own.jobs} jobs, {own.rate_rps:g}/s"
    of = (own.policies, predictor)
    yield case("none", f"{drain}, no batching", _chat(NONE, 1, *of, own.jobs, rate_rps=own.rate_rps))
    for places in own.slots:
        made = _chat(SLOTS, places, *of, own.jobs, rate_rps=own.rate_rps)
        yield case(f"slots-{places}", f"{drain}, {places} slots", made)
    for key, what, arrivals in (
        ("static", drain, {"rate_rps": own.rate_rps}),
        ("burst", f"{own.jobs} jobs at once", {"arrivals": "burst"}),
    ):
        for places in own.static:
            made = _chat(STATIC, places, *of, own.jobs, **arrivals)
            yield case(f"{key}-{places}", f"{what}, static batch {places}", made)
    for load in own.loads:
        rate_rps = load * capacity_rps(NONE, 1)
        made = _chat(NONE, 1, *of, own.steady_jobs, rate_rps=rate_rps)
        yield case(f"steady-{load:g}", f"steady rho {load:g}, no batching, {own.steady_jobs:,} jobs", made)


def _policies(config: SsjfConfig, plan: EvaluationPlan) -> Iterator[Case]:
    own = config.of_policies
    for batching, policies in ((SLOTS, list(plan.policies)), (STATIC, own.static_policies)):
        rate_rps = own.load * capacity_rps(batching, own.slots)
        what = f"{own.slots} slots" if batching == SLOTS else f"static batches of {own.slots}"
        for arrivals, cv in (("poisson", None), ("gamma", own.cv)):
            options = {"rate_rps": rate_rps, "arrivals": arrivals, "cv": cv}
            made = _chat(batching, own.slots, policies, config.predictor, own.jobs, **options)
            how = "Poisson arrivals" if cv is None else f"bursty arrivals (gamma, cv {cv:g})"
            title = f"{what}, {how}, load {own.load:g}"
            yield Case(POLICIES, f"{batching}-{arrivals}", title, config.predictor, _cells(made, own.runs))


def _conversation(config: SsjfConfig, plan: EvaluationPlan) -> Iterator[Case]:
    own = config.conversation
    noisy = [f"lognormal{{sigma:{sigma:g},latency_s:{own.latency_s:g}}}" for sigma in own.sigmas]
    for slots, load, predictor in product(own.slots, own.loads, (*noisy, *own.predictors)):
        made = replace(
            plan,
            policies=(*COMPARED, *(own.others if predictor == own.predictors[-1] else ())),
            engine=EngineConfig(**asdict(plan.engine) | {"max_batch_requests": slots}),
            scenario=ScenarioConfig("steady", load),
            workload=replace(plan.workload, predictor=predictor),
        )
        cells = tuple(Cell(replace(made, seeds=(seed,)), seed) for seed in plan.seeds)
        yield Case(CONVERSATION, f"slots-{slots}-load-{load:g}", f"{slots} slots, load {load:g}", predictor, cells)


def _theory(config: SsjfConfig, plan: EvaluationPlan) -> Iterator[Case]:
    own = config.theory
    for load in own.loads:
        for predictor in (None, *own.predictors):
            policies = ["fifo", "sjf", "srpt"] if predictor is None else ["fifo", "spjf", "sprpt"]
            made = _chat(NONE, 1, policies, predictor, own.jobs, rate_rps=load * capacity_rps(NONE, 1))
            yield Case(THEORY, f"load-{load:g}", f"load {load:g}", predictor, _cells(made, own.runs))
