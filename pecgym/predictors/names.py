"""Predictors by name or path, with parameters in braces: `lognormal{sigma:0.75}`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pecgym.errors import SpecError
from pecgym.predictors.base import Predictor
from pecgym.predictors.saved import MANIFEST, SHIPPED, SavedParameters, SavedPredictor, shipped_names
from pecgym.predictors.ssjf import SsjfProxy
from pecgym.predictors.synthetic import LogNormal, Oracle
from pecgym.predictors.two_stage import TwoStage
from pecgym.strict import from_mapping
from pecgym.workload.trace import Trace


@dataclass(frozen=True)
class TwoStageNames:
    """What stands in the braces of two_stage: the names of its predictors."""

    cheap: str
    full: str
    threshold_tokens: int


_SIMPLE: dict[str, type[Any]] = {each.kind: each for each in (Oracle, SsjfProxy, LogNormal)}


def predictor_names() -> list[str]:
    """The predictors that need no file of the user's."""
    return [*_SIMPLE, "two_stage", *shipped_names()]


def load_predictor(name_or_path: str) -> Predictor:
    """The predictor of a name, or of the folder of one that was trained; in braces its parameters, as in
    "lognormal{sigma:0.75,latency_s:0.01}" or "two_stage{cheap:lognormal{sigma:1},full:oracle,threshold_tokens:200}".

    Raises SpecError for an unknown name or parameter, naming what there is.
    """
    name, given = split_parameters(name_or_path)
    where = f"predictor {name_or_path!r}"
    if name in _SIMPLE:
        found: Predictor = from_mapping(_SIMPLE[name], given, where, SpecError)
        return found
    if name == "two_stage":
        names = from_mapping(TwoStageNames, given, where, SpecError)
        return TwoStage(load_predictor(names.cheap), load_predictor(names.full), names.threshold_tokens)
    folder = SHIPPED / name if name in shipped_names() else Path(name)
    if (folder / MANIFEST).is_file():
        parameters = from_mapping(SavedParameters, given, where, SpecError)
        return SavedPredictor.load(name, folder, parameters)
    if folder.is_dir():
        raise SpecError(f"predictor {name!r}: the folder has no {MANIFEST}; no predictor was saved there")
    raise SpecError(
        f"predictor {name!r} does not exist; choose one of {', '.join(predictor_names())}, or give the folder of one "
        "that scripts/train_predictor.py made"
    )


def saved_parts(predictor: Predictor) -> tuple[SavedPredictor, ...]:
    """The trained predictors of which one consists: itself, those of its stages, or none."""
    if isinstance(predictor, TwoStage):
        return saved_parts(predictor.cheap) + saved_parts(predictor.full)
    return (predictor,) if isinstance(predictor, SavedPredictor) else ()


def training_overlap(trace: Trace, predictor: Predictor) -> str | None:
    """A note where requests of the trace are among those that the predictor was trained on; None where none are."""
    notes = []
    for part in saved_parts(predictor):
        fingerprint = part.manifest.fingerprint
        share = fingerprint.overlap(trace)
        if share > 0:
            what = "the prompts of " if fingerprint.of == "prompts" else ""
            notes.append(
                f"predictor {part.name} was trained on {what}about {share:.0%} of these requests (the first "
                f"{part.manifest.trained_on:,} of {part.manifest.source}); on new ones it would be less accurate"
            )
    return "; ".join(notes) or None


def split_parameters(text: str) -> tuple[str, dict[str, Any]]:
    """A predictor's own name, and what stands behind it in braces: keys with values, where a value may be a name with
    braces of its own. Raises SpecError, naming the text, for what cannot be read."""
    name, brace, inside = text.partition("{")
    if not brace:
        return text, {}
    wanted = f"predictor {text!r}: write parameters as name{{key:value,key:value}}"
    if not name or not inside.endswith("}"):
        raise SpecError(wanted)
    given: dict[str, Any] = {}
    for part in _between_commas(inside[:-1]):
        key, colon, value = (each.strip() for each in part.partition(":"))
        if not (key and colon and value) or key in given:
            raise SpecError(f"{wanted}, each key once; {part.strip()!r} is not such a pair")
        try:
            given[key] = value if "{" in value else OmegaConf.create(f"value: {value}").value
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise SpecError(f"{wanted}; {value!r} is not a value") from error
    return name.strip(), given


def _between_commas(text: str) -> Iterator[str]:
    """The parts of a text between those of its commas that stand outside of all braces."""
    depth, start = 0, 0
    for index, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if character == "," and depth == 0:
            yield text[start:index]
            start = index + 1
    yield text[start:]
