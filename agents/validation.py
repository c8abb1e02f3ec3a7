"""How good an agent is on windows that it does not train on, beside policies that play the same windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from agents.config import MEASURES, EvaluationConfig
from pecgym.analysis import RequestLog
from pecgym.envs.config import EnvConfig, EpisodeConfig
from pecgym.envs.vector import CopiesVectorEnv
from pecgym.envs.windows import Windows
from pecgym.errors import PecGymError, SpecError
from pecgym.workload.splits import split_rows

Act = Callable[[dict[str, Any], Any], Any]
"""Observations (float32[n, ...] by name) and masks (bool[n, M]) to actions, int[n, components]."""


@dataclass(frozen=True)
class Results:
    """What one policy reached in W windows.

    Attributes:
        measures: by name, float64[W]; NaN where it does not apply: a window without longs.
        returns: float64[W], sums of rewards; NaN of a baseline, which has none.
        unfinished: int64[W], requests that were not served.
    """

    measures: dict[str, Any]
    returns: Any
    unfinished: Any

    def row(self) -> dict[str, float]:
        """Means over the windows."""
        means = {name: _mean(values) for name, values in self.measures.items()}
        return {**means, "return": _mean(self.returns), "unfinished": float(self.unfinished.sum())}


def score(policy: Results, reference: Results, delay_floor_s: float) -> float:
    """How much worse than the reference, 0: as good, below: better; the mean over windows and measures of the logarithm
    of policy / reference (of the throughput, of reference / policy). So -0.1 is about 10% better on average.

    delay_floor_s: added to both delays, so that the ratio of two that hardly matter does not.
    """
    return _mean(np.concatenate([_log_ratio(name, policy, reference, delay_floor_s) for name in policy.measures]))


def _log_ratio(name: str, policy: Results, reference: Results, delay_floor_s: float) -> Any:
    """float64[W]: of one measure."""
    ours, theirs = policy.measures[name], reference.measures[name]
    if name == "short_throughput_rps":
        return np.log(np.maximum(theirs, 1e-9) / np.maximum(ours, 1e-9))
    floor_s = delay_floor_s if name == "short_queueing_delay_p99_s" else 0.0
    return np.log((ours + floor_s) / (theirs + floor_s))


class Validation:
    """Fixed windows of a split, in separate copies that are run to the end.

    Attributes:
        names: of the windows.
        policy: the reference policy.
        reference: what it reaches.
        baselines: by name, what other policies reach.
    """

    def __init__(self, env_id: str, parts: Mapping[str, Mapping[str, Any]], settings: EvaluationConfig) -> None:
        """parts: by name, keyword arguments of the environments that are trained on. Raises PecGymError, also for a
        baseline that cannot serve them: they serve now, so that no training is lost by that."""
        self._env_id, self._settings = env_id, settings
        self._parts = [self._validated(part) for part in parts.values()]
        self._copies = [self._make(part) for part in self._parts]
        self._windows = [first_requests(copies.config, settings.windows) for copies in self._copies]
        self.names = [f"{name}, row {row}" for name, rows in zip(parts, self._windows, strict=True) for row in rows]
        self.policy = self._copies[0].config.policy
        self.reference = self.play_reference(self._copies)
        self.baselines = {policy: self._baseline(policy) for policy in settings.baselines}

    def _validated(self, part: Mapping[str, Any]) -> dict[str, Any]:
        return {**part, "episode": {**part["episode"], "split": self._settings.split}}

    def _make(self, part: Mapping[str, Any]) -> CopiesVectorEnv:
        made = gym.make_vec(
            self._env_id,
            self._settings.windows,
            "vector_entry_point",
            autoreset_mode=AutoresetMode.NEXT_STEP,
            **part,
        )
        assert isinstance(made, CopiesVectorEnv)
        return made

    def _baseline(self, policy: str) -> Results:
        try:
            parts = zip(self._copies, self._windows, strict=True)
            logs = [log for copies, rows in parts for log in _served(copies.config, policy, rows)]
        except PecGymError as error:
            raise SpecError(f"evaluation.baselines: {policy}: {error}; leave it out") from error
        return self._results([measured(log) for log in logs], np.full(len(logs), np.nan))

    def play(self, act: Act) -> Results:
        """What an agent reaches."""
        return self._play(self._copies, lambda observations, masks, _: act(observations, masks))

    def play_reference(self, copies: list[CopiesVectorEnv]) -> Results:
        """What the reference policy of the copies reaches."""

        def act(_: Any, masks: Any, asked: list[Any]) -> Any:
            return np.stack([each.reference_action(i) for each, rows in zip(copies, asked, strict=True) for i in rows])

        return self._play(copies, act)

    def score(self, results: Results) -> float:
        """Against the reference policy on the same windows."""
        return score(results, self.reference, self._settings.delay_floor_s)

    def _play(self, parts: list[CopiesVectorEnv], act: Callable[[dict[str, Any], Any, list[Any]], Any]) -> Results:
        """Every window to its end; only copies that still run are asked, those of all parts at once."""
        nvec = parts[0].single_action_space.nvec  # type: ignore[attr-defined]
        shown = [_begin(copies, rows) for copies, rows in zip(parts, self._windows, strict=True)]
        running = np.ones((len(parts), self._settings.windows), bool)
        total, found = np.zeros(running.shape), np.empty(running.shape, object)
        while running.any():
            asked: list[Any] = [np.flatnonzero(of_part) for of_part in running]
            masks = [copies.action_masks() for copies in parts]
            observations = {name: _of_rows([of_part[name] for of_part in shown], asked) for name in shown[0]}
            answers = act(observations, _of_rows(masks, asked), asked)
            split = np.split(answers, np.cumsum([len(rows) for rows in asked])[:-1])
            for k in np.flatnonzero(running.any(axis=1)):
                actions = _first_allowed(masks[k], nvec)
                actions[asked[k]] = split[k]
                shown[k], rewards, terminated, truncated, _ = parts[k].step(actions)
                total[k] += np.where(running[k], rewards, 0.0)
                for i in np.flatnonzero(running[k] & (terminated | truncated)):
                    found[k, i] = measured(parts[k].log(int(i)))
                    running[k, i] = False
        return self._results(found.ravel().tolist(), total.ravel())

    def _results(self, each: list[dict[str, float]], returns: Any) -> Results:
        """each: `measured`, of every window."""
        measures = {name: np.array([of[name] for of in each]) for name in self._settings.measures}
        return Results(measures, returns, np.array([int(of["unfinished"]) for of in each]))


def _served(config: EnvConfig, policy: str, rows: list[int]) -> list[RequestLog]:
    """The windows that begin at these rows, served by a policy outside of the environment: it need not be able to say
    what it does in the environment's actions."""
    experiment = config.experiment()
    trace, scale = experiment.arrivals(config.workload_seed)
    logs = []
    for window in map(Windows(trace, config.episode).from_request, rows):
        part = trace.slice(window.first, window.stop)
        part = replace(part, arrival_s=part.arrival_s - window.start_s)
        cluster = experiment.with_trace(policy, part, config.workload_seed, scale)
        logs.append(cluster.run(window.limit_s - window.start_s))
    return logs


def measured(log: RequestLog) -> dict[str, float]:
    """MEASURES of one episode, and how many requests are `unfinished`. A long that is not served counts with its age:
    leaving it out would make an agent that starves longs look good."""
    row = log.metrics()
    finish_s = log.seconds("finish")
    unfinished = np.isnan(finish_s)
    jct_s = np.where(unfinished, log.facts.end_s, finish_s) - log.seconds("arrival")
    rest = {name: _number(row[name]) for name in MEASURES if name != "long_jct_mean_s"}
    return {**rest, "long_jct_mean_s": _mean(jct_s[log.is_long]), "unfinished": int(unfinished.sum())}


def first_requests(config: EnvConfig, windows: int) -> list[int]:
    """Rows at which windows begin that are evenly spread over the split. Raises SpecError if it is too short."""
    trace = config.experiment().workload.load(config.workload_seed)
    low, high = split_rows(len(trace), config.episode.split)
    last = _last_start(trace.arrival_s, low, high, config.episode)
    if last - low + 1 < windows:
        raise SpecError(
            f"evaluation.windows={windows}: split {config.episode.split} of {trace.name!r} has {high - low} requests, "
            "too few; ask for fewer windows, or shorter episodes"
        )
    return [int(row) for row in np.linspace(low, last, windows).round()]


def _last_start(arrival_s: Any, low: int, high: int, episode: EpisodeConfig) -> int:
    """The last row of the split from which on it holds a whole episode."""
    if episode.duration_s is None:
        return high - (episode.requests or high - low)
    return int(np.searchsorted(arrival_s[:high], arrival_s[high - 1] - episode.duration_s, side="right")) - 1


def _begin(all_copies: CopiesVectorEnv, rows: list[int]) -> dict[str, Any]:
    """Begins the window of row i in copy i; observations."""
    for i, row in enumerate(rows):
        only = np.arange(len(rows)) == i
        observations, _ = all_copies.reset(seed=0, options={"first_request": row, "reset_mask": only})
    return observations


def _of_rows(arrays: list[Any], rows: list[Any]) -> Any:
    """These rows of each array, joined."""
    return np.concatenate([array[chosen] for array, chosen in zip(arrays, rows, strict=True)])


def _first_allowed(masks: Any, nvec: Any) -> Any:
    """int64[n, components]: the first valid value of each."""
    parts = np.split(masks, np.cumsum(nvec)[:-1], axis=1)
    return np.stack([part.argmax(axis=1) for part in parts], axis=1)


def _mean(values: Any) -> float:
    """Over what applies; NaN if nothing does."""
    applies = np.asarray(values, float)
    applies = applies[~np.isnan(applies)]
    return float(applies.mean()) if applies.size else float("nan")


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
