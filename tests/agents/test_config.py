"""What a training run is told: every wrong key or value is refused with its name and a remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf.errors import OmegaConfBaseException

from agents.config import changed_keys
from pecgym.envs.config import env_config
from pecgym.envs.presets import preset_settings
from pecgym.errors import SpecError
from tests.agents.runs import configured, small
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("agent.network=cnn", "agent.network"),
        ("agent.network=mlp", "agent.imitation.steps=0"),
        ("agent.learning_rate=2", "agent.learning_rate"),
        ("agent.batch_size=9999", "agent.batch_size"),
        ("agent.learning_rate_decay=cosine", "agent.learning_rate_decay"),
        ("agent.target_kl=0", "agent.target_kl"),
        ("agent.imitation.steps=-1", "agent.imitation.steps"),
        ("evaluation.split=test", "evaluation.split"),
        ("evaluation.windows=0", "evaluation.windows"),
        ("logger.mode=always", "logger.mode"),
        ("hours=[]", "hours"),
        ("hours=[0,0]", "hours"),
        ("hours=[0,1,2]", "agent.n_envs"),
        ("env.workload_seed=3", "env.workload_seed"),
        ("episode.split=all", "episode.split"),
        ("seed=-1", "seed"),
        ("save_every=0", "save_every"),
    ],
)
def test_values_that_cannot_be_are_refused(override: str, named: str) -> None:
    with pytest.raises(SpecError, match=named):
        small(override)


@pytest.mark.parametrize("override", ["agent.lr=0.1", "evaluation.hours=[1]", "colour=blue", "logger.silent=true"])
def test_unknown_keys_are_refused(override: str) -> None:
    with pytest.raises(
        (ConfigCompositionException, OmegaConfBaseException), match=override.split("=")[0].split(".")[-1]
    ):
        small(override)


def test_mix_refuses_what_cannot_differ_and_what_is_there_twice() -> None:
    with pytest.raises(SpecError, match="episode cannot differ"):
        small("mix=[{episode: {requests: 5}}]").parts()
    with pytest.raises(SpecError, match="twice"):
        small("mix=[{scenario: {load: 0.5}}, {scenario: {load: 0.5}}]").parts()


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (REPOSITORY / "conf" / "recipe").glob("*.yaml")))
def test_every_recipe_is_an_environment_with_its_name(recipe: str) -> None:
    values = configured(f"recipe={recipe}")
    assert values.name == f"{recipe}-s0"
    if recipe.startswith("infermax"):
        assert values.env.id == "pecgym/Infermax-Small-v0"
        assert values.env.oracle_lengths == (recipe == "infermax")
        own = env_config(preset_settings("Infermax-Small-v0"))
        made = env_config({}, **values.keywords())
        assert replace(made, oracle_lengths=True, episode=own.episode, workload=own.workload) == own
        assert replace(made.workload, long_context=None) == own.workload
        return
    model, scenario = recipe.split("_")
    assert values.model.name.startswith(model)
    assert values.scenario.name == scenario
    assert values.workload.long_context == "paper"


def test_the_command_line_wins_over_a_recipe() -> None:
    values = configured("recipe=mistral_steady", "model=llama-3.1-8b", "scenario.load=0.5")
    assert (values.model.name, values.scenario.load) == ("llama-3.1-8b", 0.5)
    assert configured("reward=tail").reward == configured("recipe=mistral_paper", "reward=tail").reward
    assert configured("reward=tail").reward.delay == 0.0


@pytest.mark.parametrize("group", ["agent", "logger"])
def test_every_member_of_a_group_is_valid(group: str) -> None:
    for path in Path(REPOSITORY / "conf" / group).glob("*.yaml"):
        assert configured(f"{group}={path.stem}").parts()


def test_changed_keys_are_named_in_full() -> None:
    before, after = {"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 1, "c": 3}, "d": [1], "e": None}
    assert changed_keys(before, after) == ["a.c: 2, now 3"]
