"""The page of the study, as Markdown: numbers come from the runs."""

from __future__ import annotations

import os
from pathlib import Path

from pecgym.evaluation.infermax.page_text import write_text
from pecgym.evaluation.ssjf import figures
from pecgym.evaluation.ssjf.closed_forms import lines
from pecgym.evaluation.ssjf.config import CONVERSATION, POLICIES, TARGETS, THEORY
from pecgym.evaluation.ssjf.page_conversation import conversation_section, theory_section
from pecgym.evaluation.ssjf.page_targets import policies_section, targets_section
from pecgym.evaluation.ssjf.page_text import say, say_if
from pecgym.evaluation.ssjf.study import Study


def write_page(found: Study, path: Path, folder: Path, command: str, is_shipped: bool) -> list[Path]:
    """Writes the page, and its pictures into the folder; returns their paths. is_shipped: whether the settings are
    those that ship; what is true of their results alone is left out of others."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [path]

    def picture(name: str) -> tuple[Path, str]:
        files.append(folder / f"ssjf-{name}.png")
        return files[-1], Path(os.path.relpath(files[-1], path.parent)).as_posix()

    parts = [say("head", command=command, lasts=say_if(is_shipped, "lasts"))]
    if cases := found.parts.get(TARGETS):
        at, link = picture(TARGETS)
        figures.write_targets(at, cases)
        parts.append(targets_section(cases, link, is_shipped))
    if cases := found.parts.get(POLICIES):
        parts.append(policies_section(cases, is_shipped))
    if cases := found.parts.get(CONVERSATION):
        at, link = picture(CONVERSATION)
        figures.write_conversation(at, cases)
        parts.append(conversation_section(cases, found.plan, link, is_shipped))
    if cases := found.parts.get(THEORY):
        own = found.config.theory
        loads = {f"load-{load:g}": load for load in own.loads}
        parts.append(theory_section(lines(cases, loads), own.runs, own.jobs, is_shipped))
    parts.append(say("results", files=", ".join(f"`{file.as_posix()}`" for file in found.files)))
    write_text(path, "\n\n".join(part.strip() for part in parts) + "\n")
    return files
