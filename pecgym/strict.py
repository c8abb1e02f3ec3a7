"""Strict YAML: a file either matches its dataclass key by key and type by type, or it is refused with the reason."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from pecgym.errors import PecGymError

T = TypeVar("T")


def find_yaml(folder: Path, name_or_path: str | Path, error: type[PecGymError], how_to_make: str = "") -> Path:
    """The file of a name in `folder` of the package (`a100-80gb`), or of a path (anything that ends in .yaml or .yml).

    Raises `error` with the list of packaged names when there is no such file.
    """
    text = str(name_or_path)
    is_path = text.endswith((".yaml", ".yml"))
    path = Path(text) if is_path else folder / f"{text}.yaml"
    if path.is_file():
        return path
    names = ", ".join(packaged_names(folder))
    kind = folder.name.removesuffix("s")
    missing = f"no {kind} file {text!r}" if is_path else f"no {kind} named {text!r}"
    hint = f". {how_to_make}" if how_to_make else ", or give the path of your own .yaml file"
    raise error(f"{missing}; shipped {folder.name}: {names}{hint}")


def packaged_names(folder: Path) -> list[str]:
    """Names of the YAML files in a folder of the package, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_strict(schema: type[T], path: Path, error: type[PecGymError]) -> T:
    """Read `path` into the dataclass `schema`, which is frozen, as equal files give the same object.

    Raises `error`, naming file and key, for bad YAML, an unknown key (with the valid ones), a missing key, a value of
    the wrong type (a quoted number counts as wrong) or one that the dataclass itself refuses.
    """
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise error(f"{path}: not readable as YAML: {problem}") from problem
    loaded: T = _loaded(schema, path, error, content)  # type: ignore[arg-type]
    return loaded


@lru_cache(maxsize=256)
def _loaded(schema: Any, path: Path, error: type[PecGymError], content: bytes) -> Any:
    """The same for the same content: every cluster that is made asks for the same few files."""
    try:
        given = OmegaConf.create(content.decode())
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise error(f"{path}: not readable as YAML: {problem}") from problem
    if not isinstance(given, DictConfig):
        raise error(f"{path}: expected a mapping of keys to values; the files that ship with the package are examples")
    return from_mapping(schema, given, str(path), error)


def from_mapping(schema: type[T], given: Any, where: str, error: type[PecGymError]) -> T:
    """A mapping of keys to values as the dataclass `schema`.

    Raises `error`, naming `where` and the key, for what `load_strict` refuses.
    """
    blank = OmegaConf.structured(schema)
    try:
        given = OmegaConf.create(given)
        merged = OmegaConf.merge(blank, given)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise error(f"{where}: missing key{'s' if len(missing) > 1 else ''} {', '.join(missing)}; add them")
        loaded: Any = OmegaConf.to_object(merged)
    except ConfigKeyError as problem:
        key = problem.full_key or str(problem.key)
        raise error(f"{where}: unknown key {key!r}; valid keys here: {', '.join(_siblings(schema, key))}") from problem
    except ValidationError as problem:
        reason = str(problem.msg).splitlines()[0]
        raise error(f"{where}: key {problem.full_key!r} has a value of the wrong type: {reason}") from problem
    except OmegaConfBaseException as problem:
        raise error(f"{where}: {str(problem).splitlines()[0]}") from problem
    except PecGymError as problem:
        raise error(str(problem) if where in str(problem) else f"{where}: {problem}") from problem
    _refuse_converted(OmegaConf.to_container(given), loaded, where, "", error)
    return loaded  # type: ignore[no-any-return]


def _siblings(schema: type[Any], full_key: str) -> list[str]:
    """Valid keys at the place of `full_key`: the fields of the dataclass that holds it."""
    holder: Any = schema
    for part in full_key.split(".")[:-1]:
        kind = get_type_hints(holder)[part] if is_dataclass(holder) else get_args(holder)[-1]
        holder = next((each for each in get_args(kind) if is_dataclass(each) and get_origin(kind) is not dict), kind)
    return [each.name for each in fields(holder)] if is_dataclass(holder) else []


def _refuse_converted(raw: Any, loaded: Any, source: str, where: str, error: type[PecGymError]) -> None:
    """Refuse text and booleans that OmegaConf turned into numbers on its own."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            inner = getattr(loaded, str(key)) if is_dataclass(loaded) else loaded[key]
            _refuse_converted(value, inner, source, f"{where}.{key}".lstrip("."), error)
    elif isinstance(raw, list):
        for index, (value, inner) in enumerate(zip(raw, loaded, strict=True)):
            _refuse_converted(value, inner, source, f"{where}[{index}]", error)
    elif isinstance(loaded, bool) and not isinstance(raw, bool):
        raise error(f"{source}: key {where!r} has the value {raw!r} where true or false belongs")
    elif isinstance(raw, str | bool) and isinstance(loaded, int | float) and type(raw) is not type(loaded):
        raise error(f"{source}: key {where!r} has the value {raw!r} where a number belongs; write it without quotes")
    elif isinstance(loaded, str) and not isinstance(raw, str):
        raise error(f"{source}: key {where!r} has the value {raw!r} where text belongs; put it in quotes")


def check_types(settings: Any, prefix: str, error: type[PecGymError]) -> None:
    """Raises `error` for a field of a dataclass whose value is not of its declared type; an int is a float too."""
    hints = get_type_hints(type(settings))
    for f in fields(settings):
        value = getattr(settings, f.name)
        origin = get_origin(hints[f.name])
        kinds = (origin,) if origin in (tuple, list) else get_args(hints[f.name]) or (hints[f.name],)
        allowed = tuple(kinds) + ((int,) if float in kinds else ())
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join("none" if kind is type(None) else kind.__name__ for kind in kinds)
            raise error(f"{prefix}.{f.name}={value!r}: must be of type {names}")
