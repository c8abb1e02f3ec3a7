"""Trained predictors as folders: a manifest that says what they are, and a model that skops reads without pickle."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from pecgym.errors import SpecError
from pecgym.predictors.accuracy import Accuracy
from pecgym.predictors.base import Predictions, braces
from pecgym.predictors.calibration import Calibration
from pecgym.predictors.extras import require_sklearn
from pecgym.predictors.fingerprint import Fingerprint
from pecgym.predictors.models import Fitted, model_of
from pecgym.predictors.synthetic import check_latency
from pecgym.predictors.training import Learned, Trained
from pecgym.strict import load_strict
from pecgym.workload.prompts import Prompts
from pecgym.workload.splits import split_rows
from pecgym.workload.trace import Trace

MANIFEST, MODEL = "manifest.yaml", "model.skops"
SHIPPED = Path(__file__).parent / "data"

# skops trusts the estimators of scikit-learn; of their inner parts, it wants this one named.
_TRUSTED = {"sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"}


@dataclass(frozen=True)
class Manifest:
    """What a folder holds.

    Attributes:
        kind: what the predictor reads, "trace" or "text".
        options: of its model.
        source: what it was trained on, by name; source_sha256: of that file, or of that workload's columns.
        requests: in the source; trained_on: the first of these.
        seed: of the training.
        scikit_learn: the version that trained it.
        model_sha256: of the model's file.
        latency_s: charged for a prediction where the user says nothing else; latency_from: where it comes from.
        calibration: of the model's raw word.
        accuracy: on the held-out splits.
        fingerprint: of the requests that it was trained on.
    """

    kind: str
    options: dict[str, Any]
    source: str
    source_sha256: str
    requests: int
    trained_on: int
    seed: int
    scikit_learn: str
    model_sha256: str
    latency_s: float
    latency_from: str
    calibration: Calibration
    accuracy: dict[str, Accuracy]
    fingerprint: Fingerprint


@dataclass(frozen=True)
class SavedParameters:
    """What braces behind a saved predictor's name may change. latency_s: None: that of the manifest."""

    latency_s: float | None = None

    def __post_init__(self) -> None:
        if self.latency_s is not None:
            check_latency(self.latency_s)


@dataclass(frozen=True)
class SavedPredictor:
    """A trained predictor, from its folder; the model is read when it first predicts."""

    label: str
    folder: Path
    manifest: Manifest
    parameters: SavedParameters

    @staticmethod
    def load(label: str, folder: Path, parameters: SavedParameters) -> SavedPredictor:
        """label: what it was asked for as. Raises SpecError for a folder that is not one, or a missing extra."""
        require_sklearn()
        manifest = load_strict(Manifest, folder / MANIFEST, SpecError)
        model_of(manifest.kind, manifest.options, str(folder / MANIFEST))
        return SavedPredictor(label, folder, manifest, parameters)

    @property
    def name(self) -> str:
        changed = self.parameters.latency_s
        return self.label + braces({} if changed is None else {"latency_s": changed})

    @property
    def latency_s(self) -> float:
        """Seconds that it is charged for each prediction."""
        given = self.parameters.latency_s
        return self.manifest.latency_s if given is None else given

    @property
    def files(self) -> tuple[Path, ...]:
        """What it consists of."""
        return self.folder / MANIFEST, self.folder / MODEL

    def predict(self, trace: Trace, seed: int) -> Predictions:
        manifest = self.manifest
        if not len(trace):
            return Predictions.of((), (), self.latency_s)  # scikit-learn has no answer to no rows
        model = model_of(manifest.kind, manifest.options, str(self.folder / MANIFEST))
        fitted = _load_model(self.folder / MODEL, manifest.model_sha256)
        return Learned(model, fitted, manifest.calibration).predictions(model.inputs(trace), self.latency_s)


def shipped_names() -> list[str]:
    """The trained predictors of the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{MANIFEST}"))


def save_predictor(
    folder: Path,
    trained: Trained,
    requests: Trace | Prompts,
    source: str,
    source_sha256: str,
    seed: int,
    latency_s: float | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Writes a predictor's folder: all of it, or nothing.

    requests: what it was trained from, in order. latency_s: to charge; None: what was measured. Raises SpecError where
    the folder is there and is not to be overwritten, or is something else than a predictor.
    """
    check_folder(folder, overwrite)
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _dump_model(trained.learned.fitted, part / MODEL)
    manifest = _manifest(trained, requests, source, source_sha256, seed, latency_s, _sha256(part / MODEL))
    (part / MANIFEST).write_text(yaml.safe_dump(asdict(manifest), sort_keys=False, width=120, default_flow_style=None))
    if folder.exists():
        shutil.rmtree(folder)
    part.replace(folder)
    return manifest


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raises SpecError where a predictor cannot be written to a folder."""
    if not folder.exists():
        return
    if not overwrite:
        raise SpecError(f"{folder} is there already; choose another name or out=FOLDER, or say fresh=true")
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - {MANIFEST, MODEL}:
        raise SpecError(f"{folder} holds other files than a predictor's; choose another out=FOLDER")


def _manifest(
    trained: Trained,
    requests: Trace | Prompts,
    source: str,
    source_sha256: str,
    seed: int,
    latency_s: float | None,
    model_sha256: str,
) -> Manifest:
    import sklearn

    model = trained.learned.model
    rows = split_rows(len(requests), "train")
    return Manifest(
        kind=model.kind,
        options=asdict(model),  # type: ignore[call-overload]
        source=source,
        source_sha256=source_sha256,
        requests=len(requests),
        trained_on=rows[1],
        seed=seed,
        scikit_learn=sklearn.__version__,
        model_sha256=model_sha256,
        latency_s=float(f"{trained.measured_s:.3g}") if latency_s is None else latency_s,
        latency_from="measured as it was trained: median of 100, one at a time" if latency_s is None else "given",
        calibration=trained.learned.calibration,
        accuracy=trained.accuracy,
        fingerprint=Fingerprint.take(requests.slice(*rows), "prompts" if model.kind == "text" else "outputs"),
    )


def _dump_model(fitted: Fitted, path: Path) -> None:
    import skops.io

    skops.io.dump(fitted, path, compression=zipfile.ZIP_DEFLATED, compresslevel=9)


@lru_cache(maxsize=8)
def _load_model(path: Path, sha256: str) -> Fitted:
    import skops.io

    if not path.is_file():
        raise SpecError(f"{path} is missing; train the predictor again")
    if _sha256(path) != sha256:
        raise SpecError(f"{path} is not the model that its {MANIFEST} was written for; train the predictor again")
    try:
        unknown = set(skops.io.get_untrusted_types(file=path)) - _TRUSTED
        if unknown:
            raise SpecError(
                f"{path} holds {', '.join(sorted(unknown))}: no predictor of scripts/train_predictor.py has such a "
                "part, and reading it may run code; it was not read"
            )
        fitted: Fitted = skops.io.load(path, trusted=sorted(_TRUSTED))
    except (zipfile.BadZipFile, KeyError, TypeError, AttributeError) as error:
        raise SpecError(f"{path} is not a model that skops can read ({error}); train the predictor again") from error
    return fitted


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
