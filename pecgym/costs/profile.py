"""A cost profile: how long one iteration of one replica takes, in whole picoseconds."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pecgym.costs.profile_schema import FitError, FittedRange, ProfileFile, whole_ps
from pecgym.errors import ProfileError
from pecgym.strict import find_yaml, load_strict, packaged_names

_DATA = Path(__file__).resolve().parent

PAIRS_UNIT = 1024
HOW_TO_MAKE = (
    "give the path of your own .yaml, or make one: `python scripts/calibrate.py --csv step_times.csv ...` from your "
    "measurements, `python scripts/calibrate.py --aic --model MODEL --gpu GPU --tp TP ...` from AIConfigurator "
    "(docs/calibrate.md)"
)


@dataclass(frozen=True, eq=False)
class Profile:
    """Model, GPU, tensor parallelism and engine -> iteration times. All times are int64 counts of picoseconds.

    One iteration with prefill chunks of c new tokens on m past ones, and decodes with m tokens of context each, takes

        g(tokens)                                                      tokens = sum of c + number of decodes
        + prefill_base + n_prefill * prefill_seq + sum(m) * prefill_kv
          + floor(sum(c^2 + 2 c m) * attn_per_1024_pairs / 1024)       if anything prefills
        + decode_base + n_decode * decode_seq + sum(m) * decode_kv     if anything decodes

    g_knots_tokens, g_knots_ps: int64[K], K >= 2, first knot at 1 token; g is linear between knots (rounded down),
    goes on with its last slope, and g(0) = 0. rounding_error: largest relative change that whole picoseconds made to a
    coefficient. idle_w, decode_w, prefill_w: watts of one GPU without work, in iterations of decodes alone, and in
    those with prompt tokens; power_source: where they are from. fit: error by phase. fitted_range: None where the
    source states none.
    """

    name: str
    model: str
    gpu: str
    tp: int
    engine: str
    precision: str
    kv_capacity_tokens: int
    kv_bytes_per_token: int
    block_tokens: int
    idle_w: float
    decode_w: float
    prefill_w: float
    power_source: str
    fitted_range: FittedRange | None
    fit: Mapping[str, FitError]
    source: str
    licence: str
    g_knots_tokens: NDArray[np.int64]
    g_knots_ps: NDArray[np.int64]
    prefill_base_ps: int
    prefill_seq_ps: int
    prefill_kv_ps: int
    attn_ps_per_1024_pairs: int
    decode_base_ps: int
    decode_seq_ps: int
    decode_kv_ps: int
    rounding_error: float

    @property
    def max_pairs(self) -> int:
        """Largest sum of c^2 + 2 c m in one iteration whose product with its coefficient still fits int64."""
        return int(np.iinfo(np.int64).max) // max(1, self.attn_ps_per_1024_pairs)

    def g_ps(self, tokens: int) -> int:
        """g at a number of tokens >= 0, in ps: integer interpolation, rounded down."""
        if tokens <= 0:
            return 0
        knots, times = self.g_knots_tokens, self.g_knots_ps
        i = min(bisect_right(knots, tokens), len(knots) - 1) - 1
        rise, run = int(times[i + 1] - times[i]), int(knots[i + 1] - knots[i])
        return int(times[i]) + rise * (tokens - int(knots[i])) // run

    def token_table_ps(self, n: int) -> NDArray[np.int64]:
        """g at 0, 1, ..., n - 1 tokens, int64[n], in ps: the same numbers as `g_ps`."""
        tokens = np.arange(n, dtype=np.int64)
        knots, times = self.g_knots_tokens, self.g_knots_ps
        i = np.clip(np.searchsorted(knots, tokens, side="right"), 1, len(knots) - 1) - 1
        slope, rest = np.divmod(np.diff(times), np.diff(knots))  # slope * steps alone stays far inside int64
        steps = tokens - knots[i]
        table: NDArray[np.int64] = times[i] + slope[i] * steps + rest[i] * steps // np.diff(knots)[i]
        table[:1] = 0
        return table

    def iteration_ps(self, prefills: Iterable[tuple[int, int]], decodes: Iterable[int]) -> int:
        """Time of one iteration, in ps, as a plain and slow reference.

        prefills: (new tokens c >= 1, past tokens m >= 0) of each chunk. decodes: context of each decode before the
        iteration, >= 0. An empty iteration takes no time.
        """
        chunks, contexts = list(prefills), list(decodes)
        time_ps = self.g_ps(sum(c for c, _ in chunks) + len(contexts))
        if chunks:
            pairs = sum(c * c + 2 * c * m for c, m in chunks)
            time_ps += self.prefill_base_ps + len(chunks) * self.prefill_seq_ps
            time_ps += sum(m for _, m in chunks) * self.prefill_kv_ps
            time_ps += pairs * self.attn_ps_per_1024_pairs // PAIRS_UNIT
        if contexts:
            time_ps += self.decode_base_ps + len(contexts) * self.decode_seq_ps + sum(contexts) * self.decode_kv_ps
        return time_ps

    def with_overhead(self, step_ps: int, request_ps: int, prefill_ps: int) -> Profile:
        """This profile with `step_ps` more in every iteration, `request_ps` more for each request in it, and
        `prefill_ps` more if anything prefills."""
        if step_ps == request_ps == prefill_ps == 0:
            return self
        return replace(
            self,
            g_knots_ps=self.g_knots_ps + step_ps,
            prefill_base_ps=self.prefill_base_ps + prefill_ps,
            prefill_seq_ps=self.prefill_seq_ps + request_ps,
            decode_seq_ps=self.decode_seq_ps + request_ps,
        )

    def prefill_ps(self, prompt_tokens: int) -> int:
        """Time of an iteration that prefills one whole prompt alone, in ps."""
        return self.iteration_ps([(prompt_tokens, 0)], [])

    def range_note(self, prompt_tokens: int = 0, context_tokens: int = 0, batch: int = 0) -> str:
        """One sentence for a result's metadata: which of the largest values are extrapolated; empty if none is."""
        fitted = self.fitted_range
        if fitted is None:
            return f"profile {self.name} states no fitted range"
        asked = (
            ("prompts", prompt_tokens, "tokens", fitted.prompt_tokens_max),
            ("contexts", context_tokens, "tokens", fitted.context_tokens_max),
            ("batches", batch, "decodes", fitted.batch_max),
        )
        outside = [
            f"{what} up to {value:,} {unit} (fitted up to {most:,})"
            for what, value, unit, most in asked
            if value > most
        ]
        return f"extrapolated by profile {self.name}: {', '.join(outside)}" if outside else ""


def profile_name(model: str, gpu: str, tp: int, engine: str = "vllm") -> str:
    """The name under which the profile of that combination ships."""
    return f"{model}-{gpu}-tp{tp}-{engine}"


def profile_names() -> list[str]:
    """Names of the shipped profiles."""
    return packaged_names(_DATA / "profiles")


def load_profile(name_or_path: str | Path) -> Profile:
    """The shipped profile of that name, or that of a .yaml file. Raises ProfileError."""
    path = find_yaml(_DATA / "profiles", name_or_path, ProfileError, HOW_TO_MAKE)
    return profile_of(load_strict(ProfileFile, path, ProfileError), str(path))


def find_profile(model: str, gpu: str, tp: int, engine: str = "vllm") -> Profile:
    """The shipped profile of a model on `tp` GPUs with an engine. Raises ProfileError with what there is instead."""
    name = profile_name(model, gpu, tp, engine)
    if name not in profile_names():
        others = [each for each in profile_names() if each.startswith(f"{model}-{gpu.split('-')[0]}")]
        others = others or [each for each in profile_names() if each.startswith(f"{model}-")]
        have = ", ".join(others) if others else f"none of {model}; all: {', '.join(profile_names())}"
        raise ProfileError(f"no profile {name!r} ships with the package; there is {have}. {HOW_TO_MAKE}")
    return load_profile(name)


def profile_of(file: ProfileFile, where: str) -> Profile:
    """The profile of a file's content, its coefficients in whole ps; ProfileError names the file as `where`."""
    try:
        rounded = {key: whole_ps(key, value) for key, value in file.coefficients.times().items()}
    except ProfileError as problem:
        raise ProfileError(f"{where}: {problem}") from problem
    ps = {key: value for key, (value, _) in rounded.items()}
    knots = np.array(file.coefficients.g_tokens, dtype=np.int64)
    times = np.array([ps[f"g_us[{i}]"] for i in range(len(knots))], dtype=np.int64)
    for array in (knots, times):
        array.setflags(write=False)
    return Profile(
        name=file.name,
        model=file.model,
        gpu=file.gpu,
        tp=file.tp,
        engine=file.engine,
        precision=file.precision,
        kv_capacity_tokens=file.kv_capacity_tokens,
        kv_bytes_per_token=file.kv_bytes_per_token,
        block_tokens=file.block_tokens,
        idle_w=file.idle_w,
        decode_w=file.decode_w,
        prefill_w=file.prefill_w,
        power_source=file.power_source,
        fitted_range=file.fitted_range,
        fit=dict(file.fit),
        source=file.source,
        licence=file.licence,
        g_knots_tokens=knots,
        g_knots_ps=times,
        prefill_base_ps=ps["prefill_base_us"],
        prefill_seq_ps=ps["prefill_per_sequence_us"],
        prefill_kv_ps=ps["prefill_per_past_token_ns"],
        attn_ps_per_1024_pairs=ps["attention_per_1024_pairs_ns"],
        decode_base_ps=ps["decode_base_us"],
        decode_seq_ps=ps["decode_per_sequence_us"],
        decode_kv_ps=ps["decode_per_kv_token_ns"],
        rounding_error=max(error for _, error in rounded.values()),
    )
