"""docs/environment.md: its examples run and print what it says, and its tables are what the code says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from pecgym.envs import env_ids, spaces
from pecgym.envs.config import CONTROLS, TERMS, EnvConfig, EpisodeConfig, RewardConfig
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "docs" / "environment.md").read_text()
BLOCK = re.compile(r"^```python\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", flags=re.DOTALL | re.MULTILINE)
EXAMPLES = BLOCK.findall(TEXT) + BLOCK.findall(
    (REPOSITORY / "README.md").read_text().split("## Environments")[1].split("\n## ")[0]
)
COMMANDS = re.findall(r"^python (scripts/play\.py.*?)(?: +# .*)?$", TEXT.replace("\\\n", ""), flags=re.MULTILINE)


@pytest.mark.parametrize(("example", "printed"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs_and_prints_what_follows_it(
    example: str, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/environment.md", "exec"), {})
    if printed:
        assert capsys.readouterr().out == printed


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 9
    assert len(COMMANDS) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(command: str, tmp_path: Path) -> None:
    arguments = [
        f"gif={tmp_path / 'episode.gif'}" if argument.startswith("gif=") else argument
        for argument in shlex.split(command)
    ]
    done = subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "return" in done.stdout
    assert (tmp_path / "episode.gif").exists() == ("gif=" in command)


@pytest.mark.parametrize("name", ["REPLICA", "REQUEST", "WAITING_LONG", "CLUSTER", "WAITING", "RESIDENT", "BATCH"])
def test_the_tables_of_features_are_those_of_the_spaces(name: str) -> None:
    features = getattr(spaces, name)
    rows = [f"| {i} | `{f.name}` | {f.meaning} | {f.unit} | {f.scaling} |" for i, f in enumerate(features)]
    assert "\n".join(["| | feature | meaning | unit | scaling |", "|---|---|---|---|---|", *rows, ""]) in TEXT


def default_of(value: Any) -> str:
    """A default as the page writes it."""
    if value == tuple(control for control in CONTROLS if control != "roles"):
        return "all but `roles`"
    return f'`"{value}"`' if isinstance(value, str) else "`" + repr(value).replace("'", '"') + "`"


@pytest.mark.parametrize(
    ("settings", "prefix"), [(EnvConfig, ""), (EpisodeConfig, "episode."), (RewardConfig, "reward.")]
)
def test_the_tables_of_settings_have_every_key_and_its_default(settings: type[Any], prefix: str) -> None:
    found = re.findall(rf"^\| `{re.escape(prefix)}(\w+)` \|(.*?)\|", TEXT, flags=re.MULTILINE)
    given = {key: text.strip() for key, text in found}
    default = settings()
    for key in (f.name for f in fields(settings)):
        value = getattr(default, key)
        if not is_dataclass(value):
            assert given[key] == default_of(value), key
        elif hasattr(value, "name"):
            assert given[key] == f'`{{"name": "{value.name}"}}`', key
        else:
            assert given[key] in ("", "`{}`"), key


def test_components_controls_terms_and_ids_are_all_there() -> None:
    for k, component in enumerate(spaces.CLUSTER_ACTION):
        assert f"| {k} | `{component}`" in TEXT
    for control in CONTROLS:
        assert f"| `{control}` | " in TEXT
    weights = RewardConfig()
    for term in TERMS:
        assert re.search(rf"^\| `{term}` \| .* \| {getattr(weights, term)} \|$", TEXT, flags=re.MULTILINE), term
    for env_id in env_ids():
        assert f"`{env_id}`" in TEXT or f"`{env_id.removeprefix('pecgym/PecSched')}`" in TEXT, env_id
