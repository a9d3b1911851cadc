"""BatchNorm statistics found again in a folded file: by value, only where the fold reproduces the file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgeq.core.errors import InputError
from edgeq.graph.batchnorm import fold_batchnorm, read_bn_table
from edgeq.graph.view import GraphView
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.recovery import VARIANCE_FLOOR, recover_bn_table
from edgeq.teacher.teacher import run_and_capture

DIGITS = Path(__file__).parents[3] / "examples" / "digits"


def state_dict_of(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in module.state_dict().items()}


def constants_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the named weights of a file with BatchNorm kept: what its state dict was."""
    view = GraphView(model)
    shared = [node.output[0] for node in view.nodes if node.op_type == "Identity"]
    found = {name: view.constant(name) for name in [*view.initializers, *shared]}
    return {name: value for name, value in found.items() if value is not None}


def shake(module: nn.Module, *, seed: int = 0, eps: float = 1e-5) -> nn.Module:
    """Give every BatchNorm trained-looking values, some gammas negative."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for item in module.modules():
            if isinstance(item, nn.modules.batchnorm._BatchNorm):
                item.eps = eps
                item.running_mean.normal_(generator=generator)
                item.running_var.uniform_(0.05, 2, generator=generator)
                if item.affine:
                    item.weight.normal_(generator=generator)
                    item.bias.normal_(generator=generator)
    return module.eval()


def kept(module: nn.Module, *shape: int) -> onnx.ModelProto:
    """Return the module as ONNX with BatchNorm kept, under names that say nothing."""
    import io
    import warnings

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(shape),),
            file,
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            opset_version=17,
        )
    return onnx.load_from_string(file.getvalue())


def folded(module: nn.Module, *shape: int) -> onnx.ModelProto:
    """Return the module as ONNX, folded, every initializer renamed."""
    model = fold_batchnorm(kept(module, *shape)).model
    names = {item.name: f"w{number}" for number, item in enumerate(model.graph.initializer)}
    for item in model.graph.initializer:
        item.name = names[item.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    return model


LAYERS = {
    "conv": (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), (2, 3, 6, 6)),
    "conv without bias": (nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), (2, 3, 6, 6)),
    "depthwise": (nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8), (2, 8, 6, 6)),
    "depthwise of one weight": (nn.Conv2d(8, 8, 1, groups=8), nn.BatchNorm2d(8), (2, 8, 6, 6)),
    "grouped": (nn.Conv2d(8, 12, 3, groups=4), nn.BatchNorm2d(12), (2, 8, 6, 6)),
    "transposed": (nn.ConvTranspose2d(6, 10, 3, stride=2), nn.BatchNorm2d(10), (2, 6, 5, 5)),
    "transposed, grouped": (nn.ConvTranspose2d(6, 9, 2, groups=3), nn.BatchNorm2d(9), (2, 6, 5, 5)),
    "one-dimensional": (nn.Conv1d(3, 8, 5), nn.BatchNorm1d(8), (2, 3, 16)),
    "linear": (nn.Linear(12, 7), nn.BatchNorm1d(7), (2, 12)),
    "without gamma and beta": (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), (2, 3, 6, 6)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_every_kind_of_layer_is_matched(kind: str) -> None:
    layer, norm, shape = LAYERS[kind]
    net = shake(nn.Sequential(layer, norm))
    result = recover_bn_table(folded(net, *shape), state_dict_of(net))
    (match,), (entry,) = result.matched, result.table.entries
    assert (match.weight, match.batchnorm, match.eps) == ("0.weight", "1", 1e-5)
    assert result.unmatched == ()
    gamma = norm.weight if norm.affine else torch.ones(norm.num_features)
    beta = norm.bias if norm.affine else torch.zeros(norm.num_features)
    std = gamma.abs() * (norm.running_var / (norm.running_var + norm.eps)).sqrt()
    np.testing.assert_allclose(entry.mean, beta.detach(), rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(entry.var), std.detach(), rtol=1e-6)
    assert (entry.tensor, entry.eps, entry.source) == (match.node, 0.0, "teacher")


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 1e-4, 1e-3])
def test_the_epsilon_is_the_one_that_reproduces_the_file(eps: float) -> None:
    net = shake(nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)), eps=eps)
    (match,) = recover_bn_table(folded(net, 1, 3, 6, 6), state_dict_of(net)).matched
    assert match.eps == eps


def test_the_entries_are_the_statistics_that_entered_the_batchnorm(zoo, image_input) -> None:
    net = zoo.make_net("resnet_b")
    before = zoo.export_torchscript(net)
    after = fold_batchnorm(before).model
    table = read_bn_table(before)
    found = recover_bn_table(after, state_dict_of(net)).table
    assert len(found.entries) == len(table.entries)
    params = {node.output[0]: node.input for node in before.graph.node}
    view = GraphView(before)
    x = torch.randn(8, *zoo.SHAPE, generator=torch.Generator().manual_seed(0))
    names = [entry.tensor for entry in table.entries]
    _, raw = run_and_capture(import_teacher(before), [x], names)
    _, made = run_and_capture(import_teacher(after), [x], [e.tensor for e in found.entries])
    by_node = {entry.node: entry for entry in table.entries}
    for entry in found.entries:
        source = by_node[entry.tensor]  # the folded layer took over the output of its BatchNorm
        mean, var = np.array(source.mean), np.array(source.var)
        expected = (raw[source.tensor].mean((0, 2, 3)).numpy() - mean) / np.sqrt(var)
        sign = np.sign(view.constant(params[source.node][1]))
        measured = made[entry.tensor].mean((0, 2, 3)).numpy()
        deviation = (measured - np.array(entry.mean)) / np.sqrt(entry.var)
        np.testing.assert_allclose(deviation, sign * expected, rtol=1e-3, atol=1e-4)


def test_the_order_and_the_names_of_the_state_dict_do_not_matter(zoo) -> None:
    net = zoo.make_net("resnet_imagenet")
    model = fold_batchnorm(zoo.export_torchscript(net)).model
    state = state_dict_of(net)
    prefixes = {name.rpartition(".")[0] for name in state}
    code = {prefix: f"m{number}" for number, prefix in enumerate(sorted(prefixes))}
    renamed = {
        f"{code[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value
        for name, value in reversed(state.items())
    }
    one, other = recover_bn_table(model, state), recover_bn_table(model, renamed)
    assert one.table == other.table
    assert [code[match.batchnorm] for match in one.matched] == [m.batchnorm for m in other.matched]


def test_twin_layers_are_told_apart_by_their_bias() -> None:
    net = nn.Sequential(*[m for _ in range(3) for m in (nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))])
    for conv in (net[2], net[4]):
        conv.load_state_dict(net[0].state_dict())
    shake(net)
    with torch.no_grad():
        for norm in (net[3], net[5]):  # equal factors: only the bias differs
            norm.weight.copy_(net[1].weight)
            norm.running_var.copy_(net[1].running_var)
    result = recover_bn_table(folded(net, 1, 4, 5, 5), state_dict_of(net))
    assert [match.batchnorm for match in result.matched] == ["1", "3", "5"]


def test_layers_that_are_equal_in_everything_get_a_batchnorm_each() -> None:
    net = nn.Sequential(*[m for _ in range(3) for m in (nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))])
    for index in (2, 4):
        net[index].load_state_dict(net[0].state_dict())
    result = recover_bn_table(folded(net.eval(), 1, 4, 5, 5), state_dict_of(net))
    assert {match.batchnorm for match in result.matched} == {"1", "3", "5"}


def test_dead_channels_are_matched_and_deviate_by_nothing() -> None:
    net = shake(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)))
    with torch.no_grad():
        net[1].weight[0] = 0  # switched off by gamma
        net[0].weight[1] = 0  # no input
        net[1].running_var[1] = 0
    (entry,) = recover_bn_table(folded(net, 1, 3, 6, 6), state_dict_of(net)).table.entries
    assert entry.var[:2] == (VARIANCE_FLOOR, VARIANCE_FLOOR)
    assert min(entry.var) > 0


def test_a_block_that_starts_at_zero_is_matched() -> None:
    net = shake(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    nn.init.zeros_(net[1].weight)
    (entry,) = recover_bn_table(folded(net, 1, 3, 6, 6), state_dict_of(net)).table.entries
    np.testing.assert_allclose(entry.mean, net[1].bias.detach(), rtol=1e-6)


def test_a_float16_file_is_matched_to_a_float32_state_dict() -> None:
    net = shake(nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)))
    model = folded(net, 1, 3, 6, 6)
    for item in model.graph.initializer:
        item.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(item).astype(np.float16), item.name)
        )
    (match,) = recover_bn_table(model, state_dict_of(net)).matched
    assert match.batchnorm == "1"


def test_a_layer_without_batchnorm_is_called_so() -> None:
    net = shake(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)))
    result = recover_bn_table(folded(net, 1, 3, 6, 6), state_dict_of(net))
    (left,) = result.unmatched
    assert left.is_plain
    assert "no BatchNorm: it is '2.weight'" in left.reason
    assert result.failed == ()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param("2.weight", "no weight of the state dict is proportional", id="weight"),
        pytest.param("2.bias", "it looks like '2.weight'", id="conv-bias"),
        pytest.param("3.running_mean", "it looks like '2.weight'", id="mean"),
        pytest.param("3.running_var", "it looks like '2.weight'", id="var"),
        pytest.param("3.weight", "it looks like '2.weight'", id="gamma"),
        pytest.param("3.bias", "it looks like '2.weight'", id="beta"),
    ],
)
def test_one_value_that_is_off_by_a_thousandth_undoes_the_match(spoil: str, reason: str) -> None:
    net = shake(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6))
    )
    model, state = folded(net, 1, 3, 8, 8), state_dict_of(net)
    state[spoil] = state[spoil].copy()
    # The row with the largest value is the one that is looked at first.
    index = int(np.abs(model_rows(model)).max(1).argmax())
    state[spoil].reshape(6, -1)[index, 0] *= 1.001
    result = recover_bn_table(model, state)
    assert [match.batchnorm for match in result.matched] == ["1"]
    (left,) = result.failed
    assert reason in left.reason


def model_rows(model: onnx.ModelProto) -> np.ndarray:
    """Return the second convolution's weight as rows."""
    view = GraphView(model)
    conv = [node for node in view.nodes if node.op_type == "Conv"][1]
    weight = view.constant(conv.input[1])
    assert weight is not None
    return weight.reshape(len(weight), -1)


def test_another_checkpoint_of_the_same_net_matches_nothing_and_says_what_to_do() -> None:
    make = lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))  # noqa: E731
    model = folded(shake(make()), 1, 3, 6, 6)
    with pytest.raises(InputError, match="no layer of the model") as raised:
        recover_bn_table(model, state_dict_of(shake(make(), seed=1)), path=Path("w.pth"))
    assert "EMA" in raised.value.mend
    assert raised.value.path == "w.pth"


def test_a_state_dict_without_batchnorm_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3))
    with pytest.raises(InputError, match="BatchNorm statistic"):
        recover_bn_table(kept(net, 1, 3, 6, 6), state_dict_of(net))


def test_nan_in_the_state_dict_matches_nothing() -> None:
    net = shake(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    model, state = folded(net, 1, 3, 6, 6), state_dict_of(net)
    state["1.bias"] = np.full(8, np.nan, np.float32)
    with pytest.raises(InputError, match="no layer"):
        recover_bn_table(model, state)


def test_computed_weights_are_listed(parse_graph) -> None:
    net = shake(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    model = folded(net, 1, 3, 6, 6)
    conv = model.graph.node[0]
    extra = onnx.helper.make_node("Gemm", [conv.output[0], conv.output[0]], ["product"])
    model.graph.node.append(extra)
    (left,) = recover_bn_table(model, state_dict_of(net)).failed
    assert (left.node, left.reason) == ("product", "its weight or bias is computed, not constant")


def test_three_hundred_equal_layers_take_seconds() -> None:
    body = [m for _ in range(300) for m in (nn.Conv2d(32, 32, 3, bias=False), nn.BatchNorm2d(32))]
    net = shake(nn.Sequential(*body))
    tensors = state_dict_of(net)
    nodes, weights = [], []
    for index in range(0, 600, 2):
        conv, norm = net[index], net[index + 1]
        factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
        bias = norm.bias.detach() - factor * norm.running_mean
        weight = conv.weight.detach() * factor[:, None, None, None]
        weights += [
            numpy_helper.from_array(weight.numpy(), f"w{index}"),
            numpy_helper.from_array(bias.numpy(), f"b{index}"),
        ]
        nodes.append(
            onnx.helper.make_node(
                "Conv", [f"x{index}", f"w{index}", f"b{index}"], [f"x{index + 2}"]
            )
        )
    graph = onnx.helper.make_graph(nodes, "deep", [], [], weights)
    started = time.process_time()
    result = recover_bn_table(onnx.helper.make_model(graph), tensors)
    assert time.process_time() - started < 8
    assert [match.batchnorm for match in result.matched] == [str(i) for i in range(1, 600, 2)]


def test_the_digits_file_of_the_default_exporter_is_matched_whole() -> None:
    state = constants_of(onnx.load(DIGITS / "digits_bn.onnx"))
    result = recover_bn_table(onnx.load(DIGITS / "digits_folded.onnx"), state)
    assert (len(result.matched), result.failed) == (8, ())
    assert all(m.weight.replace(".0.weight", ".1") == m.batchnorm for m in result.matched)


def test_the_real_resnet20_is_matched_whole() -> None:
    folder = os.environ.get("EDGEQ_FIXTURES")
    if folder is None:
        pytest.skip("EDGEQ_FIXTURES, the folder of the real files, is not set")
    files = Path(folder) / "cifar10"
    state = constants_of(onnx.load(files / "resnet20_bn.onnx"))
    result = recover_bn_table(onnx.load(files / "resnet20_folded.onnx"), state)
    assert (len(result.matched), result.failed) == (19, ())
    assert all(m.weight.replace("conv", "bn") == f"{m.batchnorm}.weight" for m in result.matched)
