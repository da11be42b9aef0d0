from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from netwright.children.conv import ConvNet, LocalContrastNorm, build
from netwright.children.joints import pad_to
from netwright.children.layers import Convolution
from netwright.children.plan import IMAGE, ChildSettings, compile_plan
from netwright.errors import ArchitectureError, ConfigError
from netwright.space import Architecture, Choice, SearchSpace
from netwright.spaces import conv, load_architecture
from tests.strategies import conv_architectures


def _hand_made(depth: int, inputs: dict[int, list[int]], **settings: object) -> ConvNet:
    space = conv.space("hand", conv.ConvSettings(depths=(depth,), **settings))  # type: ignore[arg-type]
    values: dict[str, object] = {}
    for i in range(1, depth + 1):
        values |= {f"layer{i}.height": 3, f"layer{i}.width": 3, f"layer{i}.filters": 24}
        if "strides" in settings:
            values |= {f"layer{i}.stride_height": 1, f"layer{i}.stride_width": 1}
        values[f"layer{i}.inputs"] = [f"layer{j}" for j in inputs.get(i, [])]
    return build(space, space.architecture(values), (3, 8, 8), 4)


@settings(max_examples=40, deadline=None)
@given(conv_architectures(), st.integers(6, 13), st.integers(6, 13), st.integers(0, 3))
def test_every_sample_builds_trains_and_is_as_large_as_predicted(
    drawn: tuple[SearchSpace, Architecture], height: int, width: int, widen: int
) -> None:
    space, architecture = drawn
    child = ChildSettings(widen=widen)
    network = build(space, architecture, (3, height, width), 7, child)
    plan = compile_plan(space, architecture, (3, height, width), 7, child)
    assert plan.parameters == sum(p.numel() for p in network.parameters())
    sizes = {}
    for i, module in enumerate(network.layers):
        module.register_forward_hook(lambda _m, _x, y, i=i: sizes.update({i: tuple(y.shape[1:])}))
    logits = network(torch.randn(2, 3, height, width))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert sizes == {i: (layer.channels, *layer.size) for i, layer in enumerate(plan.layers)}


@given(conv_architectures())
def test_every_layers_output_reaches_the_classifier(
    drawn: tuple[SearchSpace, Architecture],
) -> None:
    plan = compile_plan(*drawn, (3, 16, 16), 10)
    reached = set(plan.outputs)
    for i in reversed(range(len(plan.layers))):
        if i in reached:
            reached.update(plan.layers[i].inputs)
    assert reached >= set(range(len(plan.layers)))
    # and all start from the image: rule 1
    assert IMAGE in reached
    assert all(layer.inputs for layer in plan.layers)


@settings(max_examples=15, deadline=None)
@given(conv_architectures(), st.integers(0, 2**16))
def test_every_layers_output_matters_to_the_logits(
    drawn: tuple[SearchSpace, Architecture], seed: int
) -> None:
    torch.manual_seed(seed)
    network = build(*drawn, (3, 9, 9), 5).double()
    outputs: list[torch.Tensor] = []
    for module in network.layers:
        module.register_forward_hook(lambda _m, _x, y: outputs.append(y))
    images = torch.randn(4, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    logits = network(images)
    grads = torch.autograd.grad(logits.square().sum(), outputs, allow_unused=True)
    assert all(grad is not None for grad in grads)


def test_figure_7_is_the_papers_network() -> None:
    space, architecture = load_architecture("v1")
    plan = compile_plan(space, architecture, (3, 32, 32), 10)
    assert plan.convolution_weights == 4_199_868
    assert plan.parameters == 4_201_630
    assert plan.layers[9].inputs == (0, 2, 3, 4, 5, 6, 7, 8)
    assert plan.layers[9].describe() == "7x7 conv 36"
    assert plan.outputs == (14,)


@pytest.mark.parametrize("stride", [(2, 1), (1, 2), (2, 2), (3, 3)])
def test_strided_pointwise_layers_are_ordinary_convolutions(stride: tuple[int, int]) -> None:
    """In channels_last too, where torch's own weight gradient may end the process."""
    torch.manual_seed(0)
    space = conv.space(
        "p", conv.ConvSettings(depths=(1,), heights=(1,), widths=(1,), strides=(1, 2, 3))
    )
    values: dict[str, object] = {"layer1.height": 1, "layer1.width": 1, "layer1.filters": 24}
    values |= {"layer1.stride_height": stride[0], "layer1.stride_width": stride[1]}
    architecture = space.architecture({**values, "layer1.inputs": []})
    convolution = build(space, architecture, (3, 11, 16), 4).layers[0][0]  # type: ignore[index]
    convolution.to(memory_format=torch.channels_last)
    x = torch.randn(8, 3, 11, 16).contiguous(memory_format=torch.channels_last)
    reference = torch.nn.Conv2d(3, 24, 1, stride, bias=False).double()
    reference.load_state_dict(convolution.state_dict())
    for _ in range(3):
        convolution.weight.grad = None
        out = convolution(x)
        out.square().sum().backward()
    expected = reference(x.double())
    expected.square().sum().backward()
    assert torch.allclose(out.double(), expected, atol=1e-5)
    assert reference.weight.grad is not None
    assert torch.allclose(convolution.weight.grad.double(), reference.weight.grad, rtol=1e-4)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("size", [(1, 1), (5, 1), (2, 2), (4, 3)])
def test_a_stride_as_long_as_the_images_is_right_in_bfloat16(
    size: tuple[int, int], layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    for kernel in ((1, 3), (3, 3), (5, 7)):
        for stride in ((1, 2), (3, 3)):
            padding = kernel[0] // 2, kernel[1] // 2
            layer = Convolution(36, 24, kernel, stride, padding).to(memory_format=layout)  # type: ignore[call-overload]
            x = torch.randn(16, 36, *size).contiguous(memory_format=layout).requires_grad_()
            weights = [x, layer.weight, layer.bias]
            full = F.conv2d(x, layer.weight, layer.bias, stride, padding)
            g = torch.randn_like(full)
            expected = [full, *torch.autograd.grad(full, weights, g)]
            with torch.autocast("cpu", torch.bfloat16):
                low = layer(x)
            found = [low, *torch.autograd.grad(low, weights, g.to(low.dtype))]
            for one, other in zip(found, expected, strict=True):
                worst = float((one.float() - other).abs().max().detach())
                assert worst <= 0.02 * float(other.abs().max().detach()), (kernel, stride)


def test_rule_1_a_layer_without_input_takes_the_image() -> None:
    network = _hand_made(2, {})
    assert [layer.inputs for layer in network.plan.layers] == [(IMAGE,), (IMAGE,)]


def test_rule_2_unused_outputs_go_to_the_classifier() -> None:
    network = _hand_made(4, {3: [1], 4: [1, 3]})
    assert network.plan.outputs == (1, 3)
    assert network.classifier.in_features == 48


def test_rule_3_smaller_inputs_are_padded_with_zeros_around_the_centre() -> None:
    x = torch.ones(1, 1, 2, 3)
    padded = pad_to(x, (5, 4))
    # rows: 3 missing, 1 above and 2 below; columns: 1 missing, right
    expected = torch.zeros(1, 1, 5, 4)
    expected[:, :, 1:3, 0:3] = 1
    assert torch.equal(padded, expected)


def test_concatenation_is_along_depth_in_the_order_of_the_layers() -> None:
    network = _hand_made(3, {2: [1], 3: [1, 2]})
    network.eval()
    x = torch.randn(2, 3, 8, 8)
    one = network.layers[0](x)
    two = network.layers[1](one)
    three = network.layers[2](torch.cat([one, two], 1))
    assert torch.equal(network(x), network.classifier(three.mean((2, 3))))


def test_pooling_at_set_depths_pools_whatever_crosses_them() -> None:
    network = _hand_made(3, {2: [1], 3: [1]}, pools=(1, 2))
    network.eval()
    x = torch.randn(2, 3, 8, 8)
    one = network.layers[0](x)
    two = network.layers[1](F.max_pool2d(one, 2))
    three = network.layers[2](F.max_pool2d(F.max_pool2d(one, 2), 2))
    features = torch.cat([F.max_pool2d(two, 2), three], 1).mean((2, 3))
    assert torch.equal(network(x), network.classifier(features))


def test_blocks_are_fully_connected() -> None:
    space = conv.space("b", conv.ConvSettings(depths=(2,), filters=(6,), block=3))
    values: dict[str, object] = {"layer1.inputs": [], "layer2.inputs": ["layer1"]}
    for i in (1, 2):
        values |= {f"layer{i}.height": 1, f"layer{i}.width": 1, f"layer{i}.filters": 6}
    plan = compile_plan(space, space.architecture(values), (3, 8, 8), 10)
    assert [layer.label for layer in plan.layers] == ["1.1", "1.2", "1.3", "2.1", "2.2", "2.3"]
    assert [layer.inputs for layer in plan.layers] == [
        (IMAGE,),
        (IMAGE, 0),
        (IMAGE, 0, 1),
        (0, 1, 2),
        (0, 1, 2, 3),
        (0, 1, 2, 3, 4),
    ]
    assert plan.outputs == (3, 4, 5)


def test_widen_adds_filters_to_each_layer() -> None:
    space, architecture = load_architecture("v1")
    plan = compile_plan(space, architecture, (3, 32, 32), 10, ChildSettings(widen=40))
    assert [layer.channels for layer in plan.layers[:3]] == [76, 88, 76]


def test_local_contrast_normalisation_against_a_plain_loop() -> None:
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64)

    def mean_at(t: torch.Tensor, i: int, j: int) -> torch.Tensor:
        return t[0, :, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].mean()

    places = [(i, j) for i in range(4) for j in range(5)]
    centred = torch.stack([x[0, :, i, j] - mean_at(x, i, j) for i, j in places], 1).view(1, 2, 4, 5)
    deviation = torch.stack([mean_at(centred.square(), i, j).sqrt() for i, j in places]).view(4, 5)
    expected = centred / torch.maximum(deviation, deviation.mean())
    assert torch.allclose(LocalContrastNorm(3)(x), expected, atol=1e-6)


def test_the_learning_rate_token_reaches_the_plan() -> None:
    space = conv.space("r", conv.ConvSettings(depths=(1,), learning_rates=(0.3, 0.1)))
    a = space.sample(random.Random(0))
    assert compile_plan(space, a, (1, 8, 8), 10).learning_rate == a["learning_rate"]


def test_other_spaces_are_refused() -> None:
    space = SearchSpace("mlp", [Choice("units", (1, 2))])
    with pytest.raises(ArchitectureError, match="only architectures of a convolutional space"):
        build(space, space.architecture({"units": 1}), (1, 8, 8), 10)


def test_bad_child_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"child.widen must be 0 or more; got -1"):
        ChildSettings(widen=-1)
    with pytest.raises(ConfigError, match=r"child.batch_norm_epsilon must be above 0"):
        ChildSettings(batch_norm_epsilon=0.0)
