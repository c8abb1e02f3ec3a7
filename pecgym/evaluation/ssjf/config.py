"""The keys of `ssjf` in scripts/evaluate.py --config-name ssjf: what each part of the study is run on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from pecgym.errors import SpecError

TARGETS, POLICIES, CONVERSATION, THEORY = PARTS = ("targets", "policies", "conversation", "theory")
COMPARED = ("fifo", "sjf", "spjf")
"""FIFO, the oracle, and shortest predicted first: in every part."""
LEARNED = "azure2023_conv"
"""The shipped predictor, trained on the first 60% of the trace that the embedded conversation hour imitates."""


@dataclass
class TargetsConfig:
    """SSJF's own cases.

    Attributes:
        policies: FIFO, the oracle, and SSJF without and with its guard.
        runs: of each case, each with its own seed.
        jobs, rate_rps: of the drains.
        slots: of continuous batching.
        static: sizes of static batches.
        loads: of one job at a time.
        steady_jobs: in each run at those loads.
    """

    policies: list[str] = field(default_factory=lambda: ["fifo", "sjf", "spjf", "ssjf"])
    runs: int = 100
    jobs: int = 50
    rate_rps: float = 5.0
    slots: list[int] = field(default_factory=lambda: [2, 8])
    static: list[int] = field(default_factory=lambda: [2, 4, 8])
    loads: list[float] = field(default_factory=lambda: [0.73, 0.87, 0.95])
    steady_jobs: int = 5000


@dataclass
class PoliciesConfig:
    """Every policy on the same setting; which ones is the key `policies`.

    Attributes:
        static_policies: those of the case with static batches.
        runs: of each case.
        jobs: in each run.
        slots: of continuous batching, and the size of static batches.
        load: of the slots, or of static batches in order of arrival.
        cv: of the gaps between arrivals in the bursty cases.
    """

    static_policies: list[str] = field(
        default_factory=lambda: ["fifo", "sjf", "spjf", "ssjf", "tie", "one_bit", "multi_bin"]
    )
    runs: int = 20
    jobs: int = 1000
    slots: int = 8
    load: float = 0.87
    cv: float = 4.0


@dataclass
class ConversationConfig:
    """What predictions buy on the workload, model, cluster and engine of the evaluation, under its seeds.

    Attributes:
        others: policies beside fifo, sjf and spjf with the last of `predictors`.
        slots: requests that a replica serves at once (engine.max_batch_requests).
        loads: times the capacity with so many.
        sigmas: of log-normal errors.
        predictors: further ones, by name.
        latency_s: of a prediction with log-normal errors, as of SSJF's proxy.
    """

    others: list[str] = field(default_factory=lambda: ["ssjf", "tie", "sprpt"])
    slots: list[int] = field(default_factory=lambda: [256, 64])
    loads: list[float] = field(default_factory=lambda: [0.8, 0.95, 1.1])
    sigmas: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0])
    predictors: list[str] = field(default_factory=lambda: ["ssjf_proxy{cuts:own}", LEARNED])
    latency_s: float = 0.0078


@dataclass
class TheoryConfig:
    """M/G/1: closed forms against runs.

    Attributes:
        loads: of one job at a time.
        runs, jobs: at each load.
        predictors: by name, without latency: closed forms have none.
    """

    loads: list[float] = field(default_factory=lambda: [0.5, 0.73, 0.87, 0.95])
    runs: int = 20
    jobs: int = 20_000
    predictors: list[str] = field(default_factory=lambda: ["ssjf_proxy{latency_s:0.0}", "lognormal{sigma:1.0}"])


@dataclass
class SsjfConfig:
    """The study.

    Attributes:
        parts: which are run, of "targets", "policies", "conversation" and "theory".
        predictor: of the first two parts.
        targets, of_policies, conversation, theory: the parts.
        page: the Markdown page that is written; None: docs/ssjf.md, of a quick look page.md beside the results.
        figures: the folder of its pictures; None: docs/assets with the former, else the folder of the page.
        quick: whether to thin all of it out, for a look.
    """

    parts: list[str] = field(default_factory=lambda: list(PARTS))
    predictor: str = "ssjf_proxy"
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    of_policies: PoliciesConfig = field(default_factory=PoliciesConfig)
    conversation: ConversationConfig = field(default_factory=ConversationConfig)
    theory: TheoryConfig = field(default_factory=TheoryConfig)
    page: str | None = None
    figures: str | None = None
    quick: bool = False

    def check(self) -> None:
        """Raises SpecError for parts that do not exist and values that cannot be."""
        if unknown := sorted(set(self.parts) - set(PARTS)):
            raise SpecError(f"ssjf.parts: {', '.join(unknown)} does not exist; choose of {', '.join(PARTS)}")
        if missing := sorted(set(COMPARED) - set(self.targets.policies)):
            raise SpecError(f"ssjf.targets.policies: the page compares {', '.join(missing)} too")
        if not self.conversation.predictors or not self.conversation.sigmas:
            raise SpecError("ssjf.conversation: give sigmas and predictors, at least one of each")
        if "fifo" not in self.of_policies.static_policies:
            raise SpecError("ssjf.of_policies.static_policies: the page compares with fifo")
        for where, runs in (
            ("targets", self.targets.runs),
            ("of_policies", self.of_policies.runs),
            ("theory", self.theory.runs),
        ):
            if runs < 2:
                raise SpecError(f"ssjf.{where}.runs={runs}: an interval needs 2 or more")
        for load in (*self.targets.loads, *self.theory.loads, self.of_policies.load):
            if not 0 < load < 1:
                raise SpecError(f"ssjf: a load of {load} is not steady; give loads above 0 and below 1")

    def places(self, out: Path) -> tuple[Path, Path]:
        """The page, and the folder of its pictures. out: the folder of the results."""
        if self.page is None and not self.quick:
            page, pictures = Path("docs/ssjf.md"), Path("docs/assets")
        else:
            page = out / "page.md" if self.page is None else Path(self.page)
            pictures = page.parent
        return page, pictures if self.figures is None else Path(self.figures)

    def thinned(self) -> SsjfConfig:
        """What `quick` runs: two runs of everything, short ones, and of long lists the ends."""
        if not self.quick:
            return self
        conversation = self.conversation
        return replace(
            self,
            targets=replace(self.targets, runs=2, steady_jobs=200),
            of_policies=replace(self.of_policies, runs=2, jobs=100),
            conversation=replace(conversation, sigmas=_ends(conversation.sigmas), loads=conversation.loads[-1:]),
            theory=replace(self.theory, runs=2, jobs=500, loads=_ends(self.theory.loads)),
        )


def _ends(values: list[float]) -> list[float]:
    return list(dict.fromkeys([values[0], values[-1]]))
