"""What may change the result of a run, in full: of that its key is made, so that what was done is known again."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np

from pecgym.configs import EngineConfig
from pecgym.costs import load_cluster, load_gpu, load_model
from pecgym.experiment import Experiment
from pecgym.policies import load_policy
from pecgym.policies.agents import agents_folder, is_agent_name, load_agent
from pecgym.policies.parameters import split_name
from pecgym.predictors import saved_parts

_PACKAGE = Path(__file__).resolve().parent.parent
_READS_RESULTS = (
    *(
        "analysis/comparison.py",
        "analysis/distance.py",
        "analysis/perfetto.py",
        "analysis/report/",
        "analysis/tables.py",
    ),
    *("evaluation/paper/", "evaluation/room.py"),
    *("evaluation/infermax/figures.py", "evaluation/infermax/page", "evaluation/infermax/prose.yaml"),
    *("evaluation/optimum/figures.py", "evaluation/optimum/page", "evaluation/optimum/prose.yaml"),
    *("evaluation/optimum/gaps.py", "evaluation/optimum/tables.py"),
    *("evaluation/ssjf/figures.py", "evaluation/ssjf/page", "evaluation/ssjf/prose.yaml"),
    *("evaluation/ssjf/changes.py", "evaluation/ssjf/closed_forms.py", "evaluation/ssjf/targets"),
    "analysis/queueing.py",
)


def digest_of(identity: list[Any]) -> str:
    """A hash of what decides a result."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def workload_identity(experiment: Experiment, seed: int) -> list[Any]:
    """What decides which requests arrive and what serves them, as JSON: settings, files, the code."""
    file = experiment.workload.file()
    stat = file.stat() if file is not None else None
    predictor = experiment.workload.length_predictor()
    learned = saved_parts(predictor) if predictor is not None else ()
    return [
        package_hash(),
        _resolved(experiment.model, experiment.cluster, experiment.tp, experiment.profile),
        _resolved_engine(tuple(asdict(experiment.engine).items())),
        [asdict(experiment.workload), asdict(experiment.scenario), seed],
        [stat.st_size, stat.st_mtime_ns] if stat is not None else [],
        [hashlib.sha256(path.read_bytes()).hexdigest() for part in learned for path in part.files],
    ]


@cache
def package_hash() -> str:
    """A hash of everything in the package that can change a result: code, profiles, specifications, tables."""
    digest = hashlib.sha256(f"{numba.__version__} {np.__version__}".encode())
    for path in sorted(p for p in _PACKAGE.rglob("*") if p.suffix in (".py", ".yaml", ".json")):
        name = path.relative_to(_PACKAGE).as_posix()
        if not name.startswith(_READS_RESULTS):
            digest.update(name.encode() + path.read_bytes())
    return digest.hexdigest()


def policy_source(policy: str, model: str, scenario: str) -> str:
    """What a policy is beside its name: of an import path the source of its module, of an agent a hash of its file and
    of the code that runs it; empty for a reference policy. model, scenario: as of load_policy."""
    if is_agent_name(policy):
        return _agent_hash(load_agent(policy, model, scenario).path)
    name, _ = split_name(policy)
    if ":" not in name:
        return ""
    load_policy(name)
    source = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    return Path(source).read_text() if source else ""


def _agent_hash(checkpoint: Path) -> str:
    digest = hashlib.sha256(checkpoint.read_bytes())
    folder = agents_folder()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


@cache
def _resolved_engine(config: tuple[tuple[str, Any], ...]) -> str:
    return repr(EngineConfig(**dict(config)).load())


@cache
def _resolved(model: str, cluster: str, tp: int | None, profile: str | None) -> str:
    """What the names stand for, in full: files of the user's own may have changed."""
    spec = load_cluster(cluster)
    given = Path(profile).read_text() if profile is not None and Path(profile).is_file() else profile
    return repr((load_model(model), spec, load_gpu(spec.gpu), tp, given))
