"""A policy's name with what it changes in the policy: `pecsched{sp_degree:7,long_order:shortest}`."""

from __future__ import annotations

import re
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pecgym.errors import SpecError


def split_name(text: str) -> tuple[str, dict[str, Any]]:
    """The policy's own name, and what stands behind it in braces: keys and values as in YAML, a space after the colon
    or not, each key once. Raises SpecError, naming the text, for what cannot be read."""
    name, brace, inside = text.partition("{")
    if not brace:
        return text, {}
    wanted = f"policy {text!r}: write the changes as name{{key:value,key:value}}"
    if not inside.endswith("}") or not name:
        raise SpecError(wanted)
    try:
        given = OmegaConf.create("{" + re.sub(r":(?=\S)", ": ", inside))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise SpecError(f"{wanted}; {str(error).splitlines()[0]}") from error
    changes = OmegaConf.to_container(given)
    if not isinstance(given, DictConfig) or not isinstance(changes, dict) or not changes:
        raise SpecError(wanted)
    without = sorted(str(key) for key, value in changes.items() if value is None)
    if without:
        raise SpecError(f"{wanted}; {', '.join(without)} has no value")
    return name, {str(key): value for key, value in changes.items()}
