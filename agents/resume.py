"""The whole state of a training run in one file, from which it goes on as if it had never stopped."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO

from agents.copies import MixedVecEnv, TimeNormalize
from agents.sinks import replace_file
from pecgym.errors import SpecError

_OF_MODEL = (
    "num_timesteps",
    "_n_updates",
    "_last_obs",
    "_last_original_obs",
    "_last_episode_starts",
    "_current_progress_remaining",
)
"""What MaskablePPO carries from one update to the next, beside weights and optimiser."""


def save_state(path: Path, model: MaskablePPO, own: dict[str, Any]) -> None:
    """Between two updates; own: what the caller carries on. A kill leaves the old file or the new one, whole."""
    normalize = model.get_env()
    assert isinstance(normalize, TimeNormalize)
    state = {
        "own": own,
        "policy": model.policy.state_dict(),
        "optimizer": model.policy.optimizer.state_dict(),
        "model": {name: getattr(model, name) for name in _OF_MODEL},
        "normalize": normalize,  # without its copies and returns
        "returns": normalize.returns,
        "copies": normalize.venv,
        "random": (random.getstate(), np.random.get_state(), torch.get_rng_state(), _cuda_state(model)),
    }
    written = io.BytesIO()
    torch.save(state, written, pickle_protocol=5)
    replace_file(path, written.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """What save_state wrote. Only for files of your own: like every pickle, it can run code. Raises SpecError if it
    cannot be read by this version of the package."""
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever unpickling older objects may raise
        raise SpecError(f"{path}: cannot be read ({error}); fresh=true begins anew") from error
    return found


def copies_of(state: dict[str, Any]) -> TimeNormalize:
    """The vector environment in mid-episode."""
    normalize: TimeNormalize = state["normalize"]
    copies: MixedVecEnv = state["copies"]
    normalize.set_venv(copies)
    normalize.returns = state["returns"]
    return normalize


def restore(model: MaskablePPO, state: dict[str, Any]) -> None:
    """Makes a new model, over copies_of(state), the one that was saved; last, the random numbers."""
    model.policy.load_state_dict(state["policy"])
    model.policy.optimizer.load_state_dict(state["optimizer"])
    for name, value in state["model"].items():
        setattr(model, name, value)
    of_python, of_numpy, of_torch, of_cuda = state["random"]
    random.setstate(of_python)
    np.random.set_state(of_numpy)
    torch.set_rng_state(of_torch)
    if of_cuda is not None:
        torch.cuda.set_rng_state_all(of_cuda)


def _cuda_state(model: MaskablePPO) -> Any:
    return torch.cuda.get_rng_state_all() if model.device.type == "cuda" else None
