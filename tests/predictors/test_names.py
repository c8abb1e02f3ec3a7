"""Predictors by name, and their parameters in braces."""

from __future__ import annotations

from pathlib import Path

import pytest

from pecgym.errors import SpecError
from pecgym.predictors import load_predictor, predictor_names
from pecgym.predictors.names import split_parameters
from pecgym.predictors.two_stage import TwoStage


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("oracle", "oracle"),
        ("oracle{latency_s: 0.01}", "oracle{latency_s:0.01}"),
        ("lognormal{latency_s:1e-3,sigma:2}", "lognormal{sigma:2.0,latency_s:0.001}"),
        ("ssjf_proxy{latency_s:0.0078}", "ssjf_proxy"),
        ("ssjf_proxy{cuts:own}", "ssjf_proxy{cuts:own}"),
        (
            "two_stage{cheap: lognormal{sigma:1, latency_s:0.1}, full:oracle, threshold_tokens:200}",
            "two_stage{cheap:lognormal{sigma:1.0,latency_s:0.1},full:oracle,threshold_tokens:200}",
        ),
    ],
)
def test_a_name_says_what_differs_from_the_defaults(given: str, name: str) -> None:
    assert load_predictor(given).name == name
    assert load_predictor(name).name == name


def test_stages_may_have_stages() -> None:
    inner = "two_stage{cheap:oracle,full:ssjf_proxy,threshold_tokens:9}"
    outer = load_predictor(f"two_stage{{cheap:{inner},full:{inner},threshold_tokens:99}}")
    assert isinstance(outer, TwoStage)
    assert isinstance(outer.full, TwoStage)
    assert outer.full.threshold_tokens == 9


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("bert", ["'bert'", "oracle", "ssjf_proxy", "azure2023_conv", "train_predictor.py"]),
        ("lognormal", ["missing key sigma"]),
        ("lognormal{sigm:1}", ["sigm", "sigma, latency_s"]),
        ("lognormal{sigma:much}", ["sigma", "much"]),
        ("lognormal{sigma:-1}", ["sigma=-1", "between 0 and 10"]),
        ("oracle{latency_s:-1}", ["latency_s=-1", "0 or more"]),
        ("oracle{latency_s:.nan}", ["latency_s=nan"]),
        ("oracle{latency_s:true}", ["latency_s"]),
        ("oracle{", ["name{key:value,key:value}"]),
        ("oracle{}", ["name{key:value,key:value}"]),
        ("oracle{latency_s}", ["'latency_s'", "pair"]),
        ("oracle{latency_s:1,latency_s:2}", ["each key once"]),
        ("{latency_s:1}", ["name{key:value,key:value}"]),
        ("ssjf_proxy{cuts:mine}", ["'mine'", "lmsys, own"]),
        ("two_stage{cheap:oracle,full:bert,threshold_tokens:3}", ["'bert'"]),
        ("two_stage{cheap:oracle,full:oracle}", ["threshold_tokens"]),
        ("two_stage{cheap:oracle,full:oracle,threshold_tokens:0}", ["threshold_tokens=0"]),
        ("azure2023_conv{sigma:1}", ["sigma", "latency_s"]),
    ],
)
def test_what_cannot_be_says_why(name: str, parts: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        load_predictor(name)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


def test_a_folder_without_a_predictor(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"has no manifest\.yaml"):
        load_predictor(str(tmp_path))


def test_names_and_parameters() -> None:
    assert {"oracle", "ssjf_proxy", "lognormal", "two_stage", "azure2023_conv"} <= {*predictor_names()}
    assert split_parameters("a{b:1,c:d{e:2,f:3},g:x}") == ("a", {"b": 1, "c": "d{e:2,f:3}", "g": "x"})
    assert split_parameters("folder/of/mine") == ("folder/of/mine", {})
