"""What travels: tensors told apart by module type, averages worked by hand, integers that stay integers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedkvasir import exchange


def small_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))


def test_normalisation_is_found_by_type_however_nested() -> None:
    assert exchange.normalisation(small_network()) == {
        f"{place}.{name}"
        for place in ("1", "2.1")
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }


def test_layout_sorts_every_tensor_into_exactly_one_kind() -> None:
    network = small_network()
    for local, buffers in ((set(), "average"), (set(), "local"), (exchange.normalisation(network), "average")):
        layout = exchange.layout(network, local, buffers)
        names = [*layout.shared, *layout.buffers, *layout.local]
        assert sorted(names) == sorted(network.state_dict())
    assert exchange.layout(network, set(), "local").local == tuple(
        sorted(name for name in network.state_dict() if "running" in name or "tracked" in name)
    )


def test_tied_layers_are_one_parameter_that_travels_once() -> None:
    """As timm's CoaT ties its position encodings: under its second name it would pass for a buffer."""
    network = small_network()
    network.append(nn.Conv2d(3, 4, 3))
    network[3].weight = network[0].weight
    layout = exchange.layout(network, set(), "average")
    assert "0.weight" in layout.shared and "3.weight" not in (*layout.shared, *layout.buffers, *layout.local)
    exchange.write(network, {"0.weight": np.full((4, 3, 3, 3), 2, np.float32)})
    assert (network[3].weight == 2).all()


def test_average_is_the_weighted_mean_by_hand_running_statistics_included() -> None:
    networks = [small_network(), small_network()]
    for seed, network in enumerate(networks):
        torch.manual_seed(seed)
        for buffer in network.buffers():
            buffer.copy_(torch.rand_like(buffer.float()).mul(10).to(buffer.dtype))
    states = [exchange.read(network, network.state_dict()) for network in networks]
    mean = exchange.average(states, [30, 10])
    for name, value in mean.items():
        by_hand = 0.75 * states[0][name].astype(np.float64) + 0.25 * states[1][name].astype(np.float64)
        if np.issubdtype(states[0][name].dtype, np.integer):
            assert value.dtype == states[0][name].dtype
            assert value == np.rint(by_hand)
        else:
            np.testing.assert_allclose(value, by_hand, rtol=1e-6)
            assert value.dtype == np.float32


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=6))
def test_the_average_of_equal_models_is_the_model(weights: list[float]) -> None:
    state = {"w": np.linspace(-1, 1, 7, dtype=np.float32), "n": np.array(41, dtype=np.int64)}
    mean = exchange.average([state] * len(weights), weights)
    np.testing.assert_allclose(mean["w"], state["w"], rtol=1e-6)
    assert mean["n"] == 41 and mean["n"].dtype == np.int64


def test_a_network_survives_the_round_trip_bit_by_bit() -> None:
    torch.manual_seed(0)
    source, target = small_network(), small_network()
    exchange.write(target, exchange.read(source, source.state_dict()))
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )


def test_a_file_holds_every_array_as_it_is_however_it_lies_in_memory(tmp_path: Path) -> None:
    rising = torch.arange(48.0).view(2, 4, 3, 2)
    state = {"channels_last": rising.to(memory_format=torch.channels_last).numpy(), "step": np.array(7.0)}
    state |= {"turned": rising.numpy().T, "part": rising.numpy()[:, ::2]}
    exchange.save_groups(tmp_path / "3.safetensors", {"optimizer": state}, "round 3")
    groups, note = exchange.load_groups(tmp_path / "3.safetensors")
    assert note == "round 3" and groups["optimizer"].keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(groups["optimizer"][name], array, strict=True)


def test_a_tensor_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"0\.weight"):
        exchange.write(small_network(), {"0.weight": np.zeros((1, 1), np.float32)})


def test_the_hash_sees_names_types_shapes_and_bytes_but_not_order() -> None:
    state = {"a": np.arange(4, dtype=np.float32), "b": np.zeros(2, np.float32)}
    assert exchange.sha256(state) == exchange.sha256(dict(reversed(state.items())))
    others = [
        {**state, "a": state["a"].astype(np.float64)},
        {**state, "a": state["a"].reshape(2, 2)},
        {"a": state["a"], "c": state["b"]},
        {**state, "b": np.array([0, 1e-45], np.float32)},
    ]
    assert len({exchange.sha256(other) for other in [state, *others]}) == 5
