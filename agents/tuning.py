"""The search for an agent's settings with Optuna: every trial is a short training run."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState

from agents.options import TrainConfig
from agents.progress import Shown
from agents.sinks import replace_file
from agents.training import train
from pecgym.errors import SpecError

_HEARTBEAT_S = 60
"""A trial of a process that has not been heard of for twice as long is taken up by another one."""


@dataclass
class RangeConfig:
    """The values that a key may have: `choices`, or what lies between `low` and `high`.

    Attributes:
        low: the least value.
        high: the greatest value.
        log: whether their logarithms are spread evenly.
        whole: whether they are whole numbers.
        choices: the values, one by one.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    choices: list[Any] | None = None

    def __post_init__(self) -> None:
        if (self.choices is None) == (self.low is None or self.high is None):
            raise SpecError("tune.space: give low and high, or choices")
        if (
            self.low is not None
            and self.high is not None
            and not (self.low < self.high and (self.low > 0 or not self.log))
        ):
            raise SpecError(f"tune.space: low={self.low}, high={self.high}: low must be less (and above 0 with log)")

    def suggest(self, trial: optuna.Trial, key: str) -> Any:
        """A value for this trial."""
        if self.choices is not None:
            return trial.suggest_categorical(key, self.choices)
        assert self.low is not None
        assert self.high is not None
        if self.whole:
            return trial.suggest_int(key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)


@dataclass
class SearchConfig:
    """The search.

    Attributes:
        trials: how many, all processes together.
        startup_trials: drawn at random, and never pruned.
        space: by full key of a training run, such as agent.learning_rate, the values that it may have.
    """

    trials: int = 30
    startup_trials: int = 5
    space: dict[str, RangeConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.trials < 1 or self.startup_trials < 1:
            raise SpecError(f"tune.trials={self.trials}, .startup_trials={self.startup_trials}: must be 1 or more")


@dataclass
class TuneConfig(TrainConfig):
    """The keys of scripts/tune.py: those of a training run, and the search."""

    tune: SearchConfig = field(default_factory=SearchConfig)


def tune(values: TuneConfig, out: Path, bar: bool | None = None) -> optuna.Study:
    """Runs what is left of the search; its state is in out/study.db, every trial in a folder of its own, and the best
    settings in out/agent/best.yaml. Several processes may work on the same `out`.

    Raises:
        PecGymError: what cannot work.
        KeyboardInterrupt: after Ctrl-C; the trial that was under way goes on the next time.
    """
    if not values.tune.space:
        raise SpecError("tune.space is empty: give ranges, as in conf/tune.yaml")
    out.mkdir(parents=True, exist_ok=True)
    study = _study(values, out)
    with Shown(bar) as shown:
        shown.begin("trials", values.tune.trials, _finished(study))
        while (finished := _finished(study)) < values.tune.trials:
            study.optimize(lambda trial: _try(trial, values, out, shown), n_trials=1)
            shown.done(_finished(study) - finished)
            _write_best(study, values, out)
            shown.note(f"best score {study.best_value:+.3f}")
    return study


def _study(values: TuneConfig, out: Path) -> optuna.Study:
    """The search as far as it is; anew if its keys are others than before, SpecError."""
    noted, now = out / "search.yaml", yaml.safe_dump(_fixed(values), sort_keys=False)
    if noted.exists() and noted.read_text() != now:
        raise SpecError(f"{out} holds a search with other keys ({noted}): give out=FOLDER for a new one")
    replace_file(noted, now.encode())
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{out / 'study.db'}",
            heartbeat_interval=_HEARTBEAT_S,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
        )
    # The evaluation before the first update says nothing about a trial's settings.
    pruner = optuna.pruners.MedianPruner(values.tune.startup_trials, n_warmup_steps=values.evaluation.every)
    study = optuna.create_study(study_name=values.recipe, storage=storage, load_if_exists=True, pruner=pruner)
    seed = values.seed + len(study.trials)  # a search that goes on does not draw its first values again
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=values.tune.startup_trials, seed=seed)
    return study


def _fixed(values: TuneConfig) -> dict[str, Any]:
    """What must stay the same in a search."""
    settings = asdict(values)
    return {key: value for key, value in settings.items() if key not in ("out", "fresh", "logger", "tune")} | {
        "space": settings["tune"]["space"]
    }


def _finished(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def _try(trial: optuna.Trial, values: TuneConfig, out: Path, shown: Shown) -> float:
    """One training run; its best score."""
    chosen = {key: of_key.suggest(trial, key) for key, of_key in values.tune.space.items()}
    folder = out / "trials" / hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]
    trial.set_user_attr("folder", str(folder))

    def watch(steps: int, score: float) -> None:
        shown.note(f"trial {trial.number}, step {steps:,}: score {score:+.3f}")
        trial.report(score, steps)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        return float(train(with_keys(values, chosen), folder, watch, Shown(quiet=True))["best_score"])
    except KeyboardInterrupt:
        trial.study.enqueue_trial(chosen)
        raise


def with_keys(values: TuneConfig, chosen: Mapping[str, Any]) -> TrainConfig:
    """The training run with some keys changed. Raises SpecError for a key or a value that cannot be."""
    settings = {key: value for key, value in asdict(values).items() if key != "tune"}
    config = OmegaConf.merge(OmegaConf.structured(TrainConfig), settings)
    try:
        for key, value in chosen.items():
            OmegaConf.update(config, key, value)
        found: TrainConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise SpecError(f"tune.space: {str(error).splitlines()[0]}") from error
    return found


def _write_best(study: optuna.Study, values: TuneConfig, out: Path) -> None:
    """The best settings as a member of conf/agent; keys of other groups in its heading."""
    best = study.best_trial
    (out / "agent").mkdir(exist_ok=True)
    beside = " ".join(f"{key}={value}" for key, value in best.params.items() if not key.startswith("agent."))
    text = (
        f"# Score {best.value:+.4f} in trial {best.number} of {_finished(study)}, recipe {values.recipe}"
        + (f"; with {beside}" if beside else "")
        + f".\n# python scripts/train.py --config-dir {out} agent=best\n"
        + "defaults:\n  - /schema/agent@_here_\n  - _self_\n"
        + yaml.safe_dump(asdict(with_keys(values, best.params).agent), sort_keys=False)
    )
    replace_file(out / "agent" / "best.yaml", text.encode())
