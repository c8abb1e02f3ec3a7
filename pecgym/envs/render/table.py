"""A table of what every replica has and does now, as text for a terminal."""

from __future__ import annotations

import io
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pecgym.engine import Simulator
from pecgym.engine import state as layout
from pecgym.envs.render.activity import ACTIVITY_NAMES, IDLE, SUSPENDED, rows_of_longs, segments_now
from pecgym.envs.render.colours import COLOURS
from pecgym.units import ps_to_seconds

_ROLES = {layout.GENERAL: "general", layout.DECODE_ROLE: "decode", layout.LONG_ROLE: "long"}
_BAR_CELLS = 8
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_COLUMNS: tuple[tuple[str, int, Literal["left", "right"]], ...] = (
    ("node", 4, "right"),
    ("replica", 7, "right"),
    ("role", 8, "left"),
    ("doing", 2 + max(map(len, ACTIVITY_NAMES)), "left"),
    ("long", 17, "left"),
    ("batch", 5, "right"),
    ("waiting", 7, "right"),
    ("queued\ntokens", 7, "right"),
    ("KV memory", _BAR_CELLS + 5, "left"),
)
"""Heading and least width of each column, and its justification: wide enough not to move from one time to the next."""


def live_table(simulator: Simulator, caption: str = "", width: int = 100) -> str:
    """What stands in the queues and on every replica now, one row each, as ANSI text of at most `width` columns.

    The simulator need not record its timeline. In the middle of a batch, "batch" (requests), "queued tokens" (of
    prompts) and "KV memory" (blocks in use out of all, a long's share included) are those at its start. The progress of
    a long is that of its prefill, or of its decode.
    """
    state = simulator.state
    cluster = state.cluster[0]
    at_replicas = int(state.replicas.n_waiting.sum())
    title = Text.assemble(
        (f"{float(ps_to_seconds(cluster.now_ps)):,.3f} s", "bold"),
        f"   waiting: {int(cluster.n_queued):,} shorts in the global queue, {at_replicas:,} at replicas, "
        f"{int(cluster.n_longs):,} longs",
    )
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system="truecolor", no_color=False)
    with console.capture() as captured:
        if caption:
            console.print(Text(caption), no_wrap=True, overflow="ellipsis")
        console.print(title, no_wrap=True, overflow="ellipsis")
        console.print(_replicas(state))
    return captured.get()


def _replicas(state: layout.State) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for heading, least, justify in _COLUMNS:
        table.add_column(heading, min_width=least, justify=justify, no_wrap=True, overflow="ellipsis")
    doing, per_node = _doing(state), int(state.settings[0].replicas_per_node)
    for r, replica in enumerate(state.replicas):
        table.add_row(
            str(r // per_node),
            str(r),
            _ROLES[int(replica.role)] if replica.next_role == layout.NONE else f"→{_ROLES[int(replica.next_role)]}",
            Text.assemble(("■ ", f"rgb({','.join(map(str, COLOURS[doing[r]]))})"), ACTIVITY_NAMES[doing[r]]),
            _long(state, int(replica.lead)),
            f"{replica.n_prefills + replica.n_decodes:,}",
            f"{replica.n_waiting:,}",
            f"{replica.queued_tokens:,}",
            _bar(float(replica.used_blocks / state.settings[0].capacity_blocks)),
        )
    return table


def _doing(state: layout.State) -> Any:
    """int64[R]: what each replica does at this moment."""
    doing = (rows_of_longs(state) != layout.NONE) * (SUSPENDED - IDLE) + IDLE
    now = segments_now(state)
    under_way = now.end_ps == state.cluster[0].now_ps
    doing[now.replica[under_way]] = now.kind[under_way]
    return doing


def _long(state: layout.State, lead: int) -> str:
    """The long of a group, and how far it is."""
    if lead == layout.NONE:
        return ""
    group, replica = state.groups[lead], state.replicas[lead]
    request = state.requests[group.slot]
    ends_ps, ran_ps = int(state.event_ps[lead]), int(state.cluster[0].now_ps - replica.started_ps)
    runs = group.phase in (layout.PREFILL, layout.DECODE) and ends_ps != layout.NEVER_PS
    if group.phase == layout.GROUP_GATHERING:
        return f"#{request.row} gathers"
    if group.phase < layout.DECODE:
        return f"#{request.row} prefill {(group.done_ps + runs * ran_ps) / group.work_ps:.0%}"
    run_under_way = runs * replica.n_iterations * ran_ps / (ends_ps - replica.started_ps)
    return f"#{request.row} decode {(request.emitted_tokens + run_under_way) / request.output_tokens:.0%}"


def _bar(share: float) -> Text:
    """A bar in steps of an eighth of a cell, and the share."""
    eighths = round(min(max(share, 0.0), 1.0) * 8 * _BAR_CELLS)
    cells = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return Text.assemble((cells.ljust(_BAR_CELLS), "blue on bright_black"), f" {share:4.0%}")
