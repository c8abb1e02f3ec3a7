"""Specs load strictly, and the shipped ones say what their sources say."""

from __future__ import annotations

from pathlib import Path

import pytest

import pecgym.costs
from pecgym.costs import ClusterSpec, load_cluster, load_gpu, load_model
from pecgym.errors import SpecError
from pecgym.strict import packaged_names

GPU = """\
name: mine
memory_bytes: 1000
nvlink_one_way_gb_per_s: 1.0
idle_w: 1.0
decode_w: 2.0
prefill_w: 3.0
power_source: of a test
price_per_hour_usd: 0.0
sources: []
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("folder", "load"),
    [("gpus", load_gpu), ("models", load_model), ("clusters", load_cluster)],
    ids=["gpus", "models", "clusters"],
)
def test_every_shipped_spec_loads_under_its_own_name(folder, load):
    names = packaged_names(Path(pecgym.costs.__file__).parent / folder)
    assert names
    for name in names:
        spec = load(name)
        assert spec.name == name
        assert all(len(source) > 10 for source in spec.sources)


@pytest.mark.parametrize(
    ("name", "kv_bytes", "parameters"),
    [  # KV bytes: PecSched's table; parameters: the models' own counts on Hugging Face
        ("mistral-7b", 131_072, 7_248_023_552),
        ("phi-3-14b", 204_800, 13_960_238_080),
        ("yi-34b", 245_760, 34_388_917_248),
        ("llama-3.1-70b", 327_680, 70_553_706_496),
        ("llama-3.1-8b", 131_072, 8_030_261_248),
        ("llama-2-7b", 524_288, 6_738_415_616),
        ("llama-2-70b", 327_680, 68_976_648_192),
    ],
)
def test_model_sizes_are_the_published_ones(name, kv_bytes, parameters):
    model = load_model(name)
    assert model.kv_bytes_per_token == kv_bytes
    assert model.parameter_count == parameters
    assert model.weight_bytes == 2 * parameters


def test_quantised_weights_leave_embeddings_and_lm_head_in_16_bits():
    model = load_model("llama-3.1-70b-fp8")
    embeddings = 2 * 128_256 * 8192
    assert model.weight_bytes == 70_553_706_496 + embeddings
    assert model.kv_bytes_per_token == 327_680 // 2


def test_clusters_count_gpus_and_replicas():
    assert load_cluster("p4de_x4").gpu_count == 32
    assert load_cluster("p4de_x512").gpu_count == 4096
    assert load_cluster("a100_x1").gpu_count == 1
    assert [load_cluster("p4de_x4").replica_count(tp) for tp in (1, 4, 8)] == [32, 8, 4]
    assert load_cluster("p4de_x4").inter_node_gb_per_s == 50.0
    assert load_gpu(load_cluster("p4de_x4").gpu).nvlink_one_way_gb_per_s == 300.0
    with pytest.raises(SpecError, match="does not fit a node"):
        load_cluster("a100_x1").replica_count(2)


def test_a_file_of_the_user_loads(tmp_path):
    assert load_gpu(written(tmp_path, GPU)).memory_bytes == 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("decode_w: 2.0", "decode_w: 2.0\nbusy_w: 3.0"), "unknown key 'busy_w'; valid keys here: name, memory_bytes"),
        (("decode_w: 2.0\n", ""), "missing key decode_w"),
        (("memory_bytes: 1000", "memory_bytes: lots"), "'memory_bytes' has a value of the wrong type"),
        (("memory_bytes: 1000", "memory_bytes: 1000.5"), "'memory_bytes' has a value of the wrong type"),
        (("memory_bytes: 1000", "memory_bytes: '1000'"), "'memory_bytes' has the value '1000' where a number belongs"),
        (("memory_bytes: 1000", "memory_bytes: true"), "'memory_bytes'"),
        (("name: mine", "name: 5"), "'name' has the value 5 where text belongs"),
        (("memory_bytes: 1000", "memory_bytes: 0"), "'memory_bytes' is 0; it must be a finite number > 0"),
        (("idle_w: 1.0", "idle_w: .nan"), "'idle_w' is nan"),
        (("decode_w: 2.0", "decode_w: 0.5"), "decode_w (0.5) is below idle_w"),
        (("prefill_w: 3.0", "prefill_w: 0.5"), "prefill_w (0.5) is below idle_w"),
        (("power_source: of a test\n", ""), "missing key power_source"),
        (("sources: []", "sources: none"), "'sources'"),
        (("name: mine", "name: mine\nname: yours"), "duplicate key"),
        (("name: mine", "name: [mine"), "not readable as YAML"),
    ],
    ids=lambda value: value[1].replace("\n", " ")[:30] if isinstance(value, tuple) else "",
)
def test_a_bad_spec_is_refused_with_file_and_key(tmp_path, change, message):
    path = written(tmp_path, GPU.replace(*change))
    with pytest.raises(SpecError) as caught:
        load_gpu(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_unknown_name_lists_what_exists():
    with pytest.raises(SpecError, match="no gpu named 'b100'; shipped gpus: a100-80gb, h100-80gb, h200-141gb"):
        load_gpu("b100")
    with pytest.raises(SpecError, match=r"no model file 'nowhere\.yaml'"):
        load_model("nowhere.yaml")


def test_a_cluster_of_an_unknown_gpu_is_refused(tmp_path):
    path = written(
        tmp_path,
        "name: mine\ngpu: b100\nnodes: 1\ngpus_per_node: 8\ninter_node_gb_per_s: 50.0\nsources: []\n",
    )
    with pytest.raises(SpecError, match="key 'gpu': no gpu named 'b100'"):
        load_cluster(path)


def test_a_spec_made_in_code_is_checked_too():
    with pytest.raises(SpecError, match="'nodes' is 0"):
        ClusterSpec(name="x", gpu="a100-80gb", nodes=0, gpus_per_node=8, inter_node_gb_per_s=50.0, sources=[])


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\ngpu: a100-80gb\nnodes: 2\ngpus_per_node: 4\ninter_node_gb_per_s: 12.5\nsources: [ours]\n"
    )
    assert load_cluster(str(path)).nodes == 2
    assert load_cluster(str(path)) is load_cluster(str(path))
    path.write_text(path.read_text().replace("nodes: 2", "nodes: 10"))
    assert load_cluster(str(path)).nodes == 10
