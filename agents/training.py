"""One training run: from its configuration to the best agent, resumable at every save."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from gymnasium.spaces import Dict
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback

from agents.buffer import StepLengths
from agents.checkpoint import Form, level_of, save_agent
from agents.config import ImitationConfig, changed_keys
from agents.copies import MixedVecEnv, TimeNormalize, training_copies
from agents.imitation import ImitationRound, clone
from agents.options import TrainConfig
from agents.ppo import make_model
from agents.progress import Shown
from agents.resume import copies_of, load_state, restore, save_state
from agents.sinks import Sink, open_sinks, replace_file, write_csv
from agents.validation import Validation
from pecgym.errors import SpecError

Watch = Callable[[int, float], None]
"""Told of every evaluation: decisions of training, score."""

_NOT_OF_THE_CURVE = ("out", "fresh", "logger", "save_every", "threads")
"""Keys that may change when a run goes on."""
_OF_UPDATE = {
    "policy_loss": "train/policy_gradient_loss",
    "value_loss": "train/value_loss",
    "kl": "train/approx_kl",
    "entropy": "train/entropy_loss",
    "clip_fraction": "train/clip_fraction",
    "explained_variance": "train/explained_variance",
}


@dataclass
class Course:
    """How far a run is.

    Attributes:
        curve: a row for each update.
        evaluations: a row for each evaluation.
        best: the best score so far, and at how many steps.
        train_s: wall-clock time of training, without evaluations and saving.
        env_s: of it in the environment.
    """

    curve: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    best: tuple[float, int] = (math.inf, 0)
    train_s: float = 0.0
    env_s: float = 0.0


def train(values: TrainConfig, out: Path, watch: Watch | None = None, shown: Shown | None = None) -> dict[str, Any]:
    """Trains as configured, or goes on where a run in `out` stopped; what summary.json says.

    watch: may end the run by an exception; it is told of the evaluations before a resume again. shown: what is seen of
    it; None: a bar on a terminal.

    Raises:
        PecGymError: what cannot work, also a folder with a run of another configuration.
        KeyboardInterrupt: after Ctrl-C, when the state has been saved.
    """
    torch.set_num_threads(values.threads)
    torch.distributions.Distribution.set_default_validate_args(False)  # checks that cost a third of a decision
    out.mkdir(parents=True, exist_ok=True)
    _check_folder(values, out)
    if (out / "summary.json").exists():
        finished = _read(out / "summary.json")
        if list(finished["baselines"]) == values.evaluation.baselines:
            return finished
    display = Shown() if shown is None else shown
    with display, _interruptible(display) as asked_to_stop:
        validation = Validation(values.env.id, values.parts(), values.evaluation)
        model, course = _begin_or_go_on(values, out, display)
        if watch is not None:
            for row in course.evaluations:
                watch(int(row["steps"]), row["score"])
        sinks, remark = open_sinks(values.logger, out, asdict(values), model.num_timesteps)
        if remark:
            display.say(remark)
        try:
            run = _Run(values, out, course, validation, sinks, display, watch, asked_to_stop)
            display.begin("training", values.agent.total_timesteps, model.num_timesteps)
            left = max(0, values.agent.total_timesteps - model.num_timesteps)
            model.learn(left, [StepLengths(), run], log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
        finally:
            for sink in sinks:
                sink.close()
        summary = _summary(values, model, course, validation)
    replace_file(out / "summary.json", json.dumps(_without_nan(summary), indent=1).encode())
    return _read(out / "summary.json")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _without_nan(value: Any) -> Any:
    """The same with None for what is not a number, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _check_folder(values: TrainConfig, out: Path) -> None:
    """Notes the configuration, or compares it with the noted one. Raises SpecError if they differ."""
    path, now = out / "config.yaml", yaml.safe_load(yaml.safe_dump(asdict(values)))
    if values.fresh:
        for name in ("summary.json", "last.zip", "best.pt", "curve.csv", "evaluations.csv"):
            (out / name).unlink(missing_ok=True)
    elif path.exists() and (changed := changed_keys(_of_curve(yaml.safe_load(path.read_text())), _of_curve(now))):
        raise SpecError(
            f"{out} holds a run of another configuration ({'; '.join(changed)}): give out=FOLDER for a new one, "
            "the same keys to go on with it, or fresh=true to begin it anew"
        )
    replace_file(path, yaml.safe_dump(now, sort_keys=False).encode())


def _of_curve(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings on which the curve depends."""
    kept = {key: value for key, value in settings.items() if key not in _NOT_OF_THE_CURVE}
    return {**kept, "evaluation": {key: value for key, value in kept["evaluation"].items() if key != "baselines"}}


def _begin_or_go_on(values: TrainConfig, out: Path, shown: Shown) -> tuple[MaskablePPO, Course]:
    """The agent as it was saved, or a new one, after imitation if that is asked for."""
    last = out / "last.zip"
    if last.exists():
        state = load_state(last)
        model = _new_model(values, copies_of(state))
        restore(model, state)
        course = Course(**state["own"])
        shown.say(f"{out}: goes on at step {model.num_timesteps:,}")
        return model, course
    copies = training_copies(values.env.id, values.parts(), values.agent.n_envs)
    model = _new_model(values, TimeNormalize(copies, values.agent.gamma))
    _imitate(model, values.agent.imitation, shown)
    copies.seconds = 0.0
    return model, Course()


def _new_model(values: TrainConfig, copies: TimeNormalize) -> MaskablePPO:
    return make_model(values.agent, copies, values.reward.discount_per_s, values.seed, values.device)


def _imitate(model: MaskablePPO, settings: ImitationConfig, shown: Shown) -> None:
    """Behaviour cloning, if it is asked for."""
    if not settings.steps:
        return
    copies = model.get_env()
    assert copies is not None
    model._last_obs, model._last_episode_starts = copies.reset(), np.ones(copies.num_envs, bool)  # type: ignore[assignment]
    shown.begin("imitation", settings.steps)
    done = 0

    def report(found: ImitationRound) -> None:
        nonlocal done
        shown.done(found.steps - done)
        done = found.steps
        shown.note(f"imitation, step {done:,}: agrees in {found.agreement:.1%} of the decisions")

    clone(model, settings, report)


class _Run(BaseCallback):
    """What happens between two updates: a row of the curve, an evaluation, a save."""

    model: MaskablePPO

    def __init__(
        self,
        values: TrainConfig,
        out: Path,
        course: Course,
        validation: Validation,
        sinks: list[Sink],
        shown: Shown,
        watch: Watch | None,
        asked_to_stop: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._values, self._out, self._course, self._validation = values, out, course, validation
        self._sinks, self._shown, self._watch, self._asked_to_stop = sinks, shown, watch, asked_to_stop
        self._at = -1  # decisions when the last update had been dealt with
        self._began_s = 0.0
        self._env_began_s = 0.0

    @property
    def _copies(self) -> MixedVecEnv:
        normalize = self.model.get_env()
        assert isinstance(normalize, TimeNormalize)
        return normalize.venv

    def _on_training_start(self) -> None:
        self._at = self.model.num_timesteps
        if self._at == 0:
            self._evaluate()
        self._start_clock()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._after_update(last=False)

    def _on_training_end(self) -> None:
        self._after_update(last=True)

    def _start_clock(self) -> None:
        self._began_s, self._env_began_s = time.perf_counter(), self._copies.seconds

    def _after_update(self, last: bool) -> None:
        """The only place where a run can be saved: no decision is under way, and the buffer is empty."""
        steps = self.model.num_timesteps
        if steps == self._at:
            return
        self._record(time.perf_counter() - self._began_s, self._copies.seconds - self._env_began_s)
        before, self._at = self._at, steps
        if last or _passed(self._values.evaluation.every, before, steps):
            self._evaluate()
        stop = self._asked_to_stop()
        if last or stop or _passed(self._values.save_every, before, steps):
            save_state(self._out / "last.zip", self.model, vars(self._course))
        write_csv(self._out / "curve.csv", self._course.curve)
        if stop and not last:
            raise KeyboardInterrupt
        self._start_clock()

    def _record(self, seconds: float, env_s: float) -> None:
        """A row of the curve."""
        course, recorded = self._course, self.model.logger.name_to_value
        course.train_s += seconds
        course.env_s += env_s
        steps = self.model.num_timesteps
        returns = self._copies.episode_returns
        row: dict[str, float] = {
            "steps": steps,
            "seconds": round(course.train_s, 3),
            "steps_per_s": round((steps - self._at) / seconds, 1),
            "env_share": round(env_s / seconds, 4),
            "return": float(np.mean(returns)) if returns else math.nan,
            **{name: float(recorded[key]) for name, key in _OF_UPDATE.items()},
            "learning_rate": float(self.model.policy.optimizer.param_groups[0]["lr"]),
        }
        row["entropy"] = -row["entropy"]
        course.curve.append(row)
        self._write("train", row)
        self._shown.done(steps - self._at)

    def _write(self, group: str, row: dict[str, float]) -> None:
        for sink in self._sinks:
            sink.write(group, row)

    def _evaluate(self) -> None:
        """A row of the evaluations; keeps the agent if it is the best so far."""
        steps = self.model.num_timesteps
        results = self._validation.play(lambda observations, masks: self._act(observations, masks))
        found = self._validation.score(results)
        row = {"steps": steps, "score": found, **results.row()}
        self._course.evaluations.append(row)
        write_csv(self._out / "evaluations.csv", self._course.evaluations)
        self._write("evaluation", row)
        if found < self._course.best[0]:
            self._course.best = (found, steps)
            self._keep()
        best, at = self._course.best
        self._shown.note(f"{self._out.name}, step {steps:,}: score {found:+.3f}, best {best:+.3f} at {at:,}")
        if self._watch is not None:
            self._watch(steps, found)

    def _keep(self) -> None:
        """Writes the agent as it is."""
        values, (score, steps) = self._values, self._course.best
        space = self.model.observation_space
        assert isinstance(space, Dict)
        form = Form(values.agent.network, values.agent.hidden, level_of(space))
        notes = {
            "run": values.name,
            "model": values.model.name,
            "cluster": values.cluster.name,
            "scenario": values.scenario.name,
            "load": values.scenario.load,
            "recipe": values.recipe,
            "workload": values.workload.name,
            "requests": values.episode.requests,
            "hours": values.hours,
            "seed": values.seed,
            "steps": steps,
            "score": score,
        }
        save_agent(self._out / "best.pt", self.model, form, values.keywords(), notes)

    def _act(self, observations: dict[str, Any], masks: Any) -> Any:
        actions, _ = self.model.predict(observations, deterministic=True, action_masks=masks)
        return actions


def _passed(every: int, before: int, now: int) -> bool:
    """Whether a multiple of `every` lies in (before, now]."""
    return now // every > before // every


def _summary(values: TrainConfig, model: MaskablePPO, course: Course, validation: Validation) -> dict[str, Any]:
    """What summary.json says."""
    best, at = course.best
    return {
        "run": values.name,
        "steps": model.num_timesteps,
        "train_s": course.train_s,
        "steps_per_s": model.num_timesteps / course.train_s,
        "env_steps_per_s": model.num_timesteps / course.env_s,
        "env_share": course.env_s / course.train_s,
        "best_score": best,
        "best_steps": at,
        "best": next(row for row in course.evaluations if row["steps"] == at),
        "reference": {"policy": validation.policy, "score": 0.0, **validation.reference.row()},
        "baselines": {
            policy: {"score": validation.score(results), **results.row()}
            for policy, results in validation.baselines.items()
        },
        "windows": validation.names,
    }


@contextmanager
def _interruptible(shown: Shown) -> Iterator[Callable[[], bool]]:
    """Within it, the first Ctrl-C (or SIGTERM) asks to stop after the update that is under way, the second stops at
    once."""
    asked: list[int] = []

    def handle(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        shown.say("finishing this update, then saving; once more to stop at once")

    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, which alone is interrupted
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
