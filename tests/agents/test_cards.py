"""A card says by what an agent was trained, and how good it was; shipping copies it and writes the card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import agents.checkpoint
import scripts.ship_agents
from agents.cards import card
from agents.checkpoint import load_agent, save_agent
from pecgym.analysis.comparison import METRICS, compare
from tests.agents.cloned import FORM, NOTES, SETTINGS, cloned

OWN = {"policy": "pecsched", "agent_controls": ["placement"], "reward": {"delay": 1.0, "long": 0.05, "slo": 0.0}}
TRAINED = NOTES | {
    "cluster": "p4de_x4",
    "load": 0.8,
    "recipe": "small",
    "workload": "azure2023_conv",
    "requests": 100,
    "hours": [0, 1],
    "seed": 0,
    "steps": 4000,
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run, and an empty folder of shipped agents."""
    folder = tmp_path / "small_case-s0"
    folder.mkdir()
    save_agent(folder / "best.pt", cloned(), FORM, {**SETTINGS, **OWN}, TRAINED)
    (folder / "summary.json").write_text(json.dumps({"steps": 5000}))
    for module in (agents.checkpoint, scripts.ship_agents):
        monkeypatch.setattr(module, "FOLDER", tmp_path / "checkpoints")
    return folder


def compared() -> dict[str, Any]:
    """The agent halves the delay on each of four windows."""
    rows = []
    for policy, factor in (("pecsched", 1.0), ("ppo/small-case-s0", 0.5)):
        for window in range(4):
            metrics = {"short_queueing_delay_p99_s": factor * (1 + window), "short_throughput_rps": 2.0}
            rows.append({"policy": policy, "workload": "w", "scenario": "s", "seed": 0, "window": window} | metrics)
    every = {metric.key: None for metric in METRICS}
    return compare([every | row for row in rows], "pecsched")


def test_a_shipped_agent_is_known_by_name_and_its_card_says_what_it_is(run: Path) -> None:
    path = scripts.ship_agents.ship(run, {"Four windows": compared()})
    agent = load_agent("ppo/small-case-s0")
    assert agent.path == path
    text = path.with_suffix(".md").read_text()
    assert text.startswith("# ppo/small-case-s0\n")
    for said in (
        "llama-3.1-70b on p4de_x4 in the scenario steady 0.8",
        "`python scripts/train.py recipe=small seed=0`, 5,000 decisions",
        "generator hours 0, 1 of azure2023_conv, windows of 100 requests",
        "at 4,000 decisions",
        "score +0.100",
        "placement; all else by `pecsched`",
        "delay 1, long 0.05 |",
        "Four windows: `ppo/small-case-s0` (one training seed) and `pecsched` on the same 4 windows",
        "| p99 queueing delay of shorts, s | 2.5 | 1.25 | -1.25 [",
        "| short throughput, requests/s | 2 | 2 | +0 [0, 0] | equal |",
    ):
        assert said in text
    assert text == card(agent, {"steps": 5000}, scripts.ship_agents._commit(), {"Four windows": compared()})


def test_a_file_that_is_too_large_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts.ship_agents, "LARGEST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"best.pt: is larger than 0.001 MB; agent.hidden makes it smaller"):
        scripts.ship_agents.ship(run, {})


def test_a_test_without_a_file_is_refused() -> None:
    with pytest.raises(ValueError, match="--test Four windows: give TITLE=FILE"):
        scripts.ship_agents._comparison("Four windows")
