"""INFERMAX's presets under other memory rules, by name: `sarathi_hist_srf` is `sarathi` with two settings changed.

A suffix changes what admission sets aside (`_no_evict`: the peak, which never evicts; `_hist`: the mean peak of
finished requests), and `_srf` after it who is evicted (SRF, the fewest computed tokens, in place of NRF, the newest).
"""

from __future__ import annotations

from pecgym.errors import SpecError

BASES = ("vllm", "vllm_hybrid", "sarathi", "sarathi_unlimited", "sarathi_no_chunk", "sarathi_no_hybrid", "orca")
"""The presets of INFERMAX (arXiv:2411.07447)."""

_NO_EVICT, _HIST, _SRF = "_no_evict", "_hist", "_srf"
_CHANGES = {
    _NO_EVICT: {"reservation": "peak"},
    _HIST: {"reservation": "history"},
    _SRF: {"victim": "fewest_computed"},
    _HIST + _SRF: {"reservation": "history", "victim": "fewest_computed"},
}
_NEVER_EVICTS = ("orca",)

HOW_TO_NAME = f"give the path of your own .yaml file, or a suffix ({', '.join(_CHANGES)}) to one of {', '.join(BASES)}"


def variant_names() -> list[str]:
    """Every derived name that means something, sorted."""
    return sorted(b + suffix for b in BASES for suffix in _CHANGES if (b not in _NEVER_EVICTS or suffix != _SRF))


def variant_of(name: str) -> tuple[str, dict[str, str]] | None:
    """The preset that `name` is derived from and the settings that it changes; None: it is no derived name.

    Raises SpecError for suffixes that mean nothing together.
    """
    base = max((each for each in BASES if name.startswith(f"{each}_")), key=len, default="")
    suffix = name.removeprefix(base)
    if not base or set(_parts(suffix)) - {_NO_EVICT, _HIST, _SRF}:
        return None
    if suffix not in _CHANGES:
        raise SpecError(f"engine {name!r}: {_what_is_wrong(base, suffix)}")
    if base in _NEVER_EVICTS and suffix == _SRF:
        raise SpecError(
            f"engine {name!r}: {base} sets the peak aside and never evicts, so that {_SRF} means nothing: "
            f"choose {base}, or {base}{_HIST}{_SRF}"
        )
    return base, _CHANGES[suffix]


def _parts(suffix: str) -> list[str]:
    """The suffixes of which one is made; what is none of them stays whole."""
    for part in (_NO_EVICT, _HIST, _SRF):
        if suffix.startswith(part):
            return [part, *(_parts(suffix.removeprefix(part)) if suffix != part else [])]
    return [suffix]


def _what_is_wrong(base: str, suffix: str) -> str:
    parts = set(_parts(suffix))
    if {_NO_EVICT, _HIST} <= parts:
        return f"{_NO_EVICT} and {_HIST} are two rules for one reservation: choose one"
    if {_NO_EVICT, _SRF} <= parts:
        return f"{_NO_EVICT} never evicts, so that {_SRF} means nothing: choose {base}{_NO_EVICT}, or {base}{_SRF}"
    if parts == {_HIST, _SRF}:
        return f"write {base}{_HIST}{_SRF}"
    return "a suffix is given once"
