"""BatchNormalization: the table holds the file's statistics, and folding changes no output and nothing else."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.core.errors import ModelError, NumericsError
from edgeq.graph.batchnorm import fold_batchnorm, read_bn_table
from edgeq.graph.passes import PassResult

# Folding rounds each weight once to float32; through few layers that stays within some float32 steps (6e-8 each).
RELATIVE = 1e-5

Array = NDArray[np.float32]


def floats(name: str, *shape: int) -> onnx.TensorProto:
    rng = np.random.default_rng(sum(map(ord, name)))
    return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)


def bn(source: str, result: str, channels: int) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """Return a BatchNormalization with its constants `<result>.gamma` and so on; some gammas are negative."""
    names = [f"{result}.{part}" for part in ("gamma", "beta", "mean", "var")]
    tensors = [floats(name, channels) for name in names]
    variance = np.abs(numpy_helper.to_array(tensors[3])) + np.float32(0.1)
    tensors[3] = numpy_helper.from_array(variance, names[3])
    node = helper.make_node("BatchNormalization", [source, *names], [result], epsilon=1e-3)
    return node, tensors


def make_model(
    nodes: list[onnx.NodeProto],
    tensors: list[onnx.TensorProto],
    *,
    shape: tuple[int | str, ...] = (2, 4, 6, 6),
    outputs: tuple[str, ...] = ("y",),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model).graph.output
    model.graph.ClearField("output")
    model.graph.output.extend(inferred)
    return model


def run(model: onnx.ModelProto, seed: int = 0) -> list[Array]:
    """Return the outputs of `model` on seeded noise, by ONNX Runtime as the file stands."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(seed)
    feeds = {
        item.name: rng.normal(size=[size if isinstance(size, int) else 2 for size in item.shape])
        for item in session.get_inputs()
    }
    return list(session.run(None, {name: x.astype(np.float32) for name, x in feeds.items()}))


def fold(model: onnx.ModelProto) -> PassResult:
    """Fold, and check what must hold every time: same outputs and names, input untouched, valid, idempotent."""
    before = model.SerializeToString()
    result = fold_batchnorm(model)
    assert model.SerializeToString() == before, "the input model was modified"
    onnx.checker.check_model(result.model, full_check=True)
    assert [item.name for item in result.model.graph.output] == [
        item.name for item in model.graph.output
    ]
    for reference, measured in zip(run(model), run(result.model), strict=True):
        largest = float(np.abs(reference).max())
        np.testing.assert_allclose(measured, reference, rtol=0, atol=RELATIVE * largest)
    again = fold_batchnorm(result.model)
    assert not again.changed
    assert again.model is result.model
    assert again.findings == result.findings
    return result


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def initializers(model: onnx.ModelProto) -> list[str]:
    return [item.name for item in model.graph.initializer]


# The table


def test_the_table_holds_the_statistics_in_running_order() -> None:
    first, first_tensors = bn("x", "first", 4)
    second, second_tensors = bn("r", "y", 4)
    model = make_model(
        [first, helper.make_node("Relu", ["first"], ["r"]), second],
        [*second_tensors, *first_tensors],
    )
    one, two = read_bn_table(model).entries
    assert (one.tensor, one.node, one.source) == ("x", "first", "node")
    assert (two.tensor, two.node) == ("r", "y")
    np.testing.assert_array_equal(np.float32(one.mean), numpy_helper.to_array(first_tensors[2]))
    np.testing.assert_array_equal(np.float32(one.var), numpy_helper.to_array(first_tensors[3]))
    assert one.eps == pytest.approx(1e-3)


def test_the_ordinary_epsilon_is_the_standards() -> None:
    node, tensors = bn("x", "y", 4)
    node.ClearField("attribute")
    assert read_bn_table(make_model([node], tensors)).entries[0].eps == 1e-5


def test_constants_behind_identity_count_and_computed_ones_do_not() -> None:
    node, tensors = bn("x", "n", 4)
    other, other_tensors = bn("n", "y", 4)
    node.input[3], other.input[3] = "alias", "computed"
    nodes = [
        helper.make_node("Identity", ["n.mean"], ["alias"]),
        helper.make_node("ReduceMean", ["x"], ["computed"], axes=[0, 2, 3], keepdims=0),
    ]
    model = make_model([*nodes, node, other], [*tensors, *other_tensors])
    assert [entry.node for entry in read_bn_table(model).entries] == ["n"]
    assert fold(model).findings == (
        "BatchNormalization 'n' stays: no layer with weights is before it; 'x' is a graph input",
        "BatchNormalization 'y' stays: its parameters are computed, not constant",
    )


@pytest.mark.parametrize("act", [read_bn_table, fold_batchnorm])
def test_training_mode_is_refused_with_all_nodes(act: Callable[[onnx.ModelProto], object]) -> None:
    first, tensors = bn("x", "n", 4)
    second, more = bn("n", "y", 4)
    for node in (first, second):
        node.attribute.append(helper.make_attribute("training_mode", 1))
    with pytest.raises(ModelError, match=r"training mode: 'n', 'y'") as caught:
        act(make_model([first, second], [*tensors, *more]))
    assert "model.eval()" in caught.value.mend


@pytest.mark.parametrize("is_live", [True, False])
def test_a_second_output_means_training_only_if_it_is_read(is_live: bool) -> None:
    node, tensors = bn("x", "y", 4)
    node.output.extend(["running_mean", "running_var"])
    outputs = ("y", "running_mean") if is_live else ("y",)
    model = make_model([node], tensors, outputs=outputs)
    if is_live:
        with pytest.raises(ModelError, match="training mode"):
            read_bn_table(model)
    else:
        assert len(read_bn_table(model).entries) == 1


def test_parameters_of_different_lengths_are_refused() -> None:
    node, tensors = bn("x", "y", 4)
    tensors[2] = floats("y.mean", 3)
    with pytest.raises(ModelError, match=r"shapes \[\[4\], \[4\], \[3\], \[4\]\]"):
        read_bn_table(make_model([node], tensors))


# Folding, layer by layer


@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv_takes_the_node_in(has_bias: bool, groups: int) -> None:
    node, tensors = bn("c", "y", 8)
    names = ["x", "w", "wb"] if has_bias else ["x", "w"]
    conv = helper.make_node("Conv", names, ["c"], group=groups, name="the conv")
    weights = [floats("w", 8, 4 // groups, 3, 3), *([floats("wb", 8)] if has_bias else [])]
    result = fold(make_model([conv, node], [*weights, *tensors]))
    (left,) = result.model.graph.node
    bias = "wb/folded" if has_bias else "w/folded_bias"
    assert (left.op_type, left.name) == ("Conv", "the conv")
    assert (list(left.input), list(left.output)) == (["x", "w/folded", bias], ["y"])
    assert initializers(result.model) == ["w/folded", bias]
    assert {"y", "c", "w", "w/folded", bias, "y.gamma"} <= set(result.touched)
    assert result.findings == ()


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no-bias"])
def test_transposed_conv_takes_the_node_in(groups: int, has_bias: bool) -> None:
    node, tensors = bn("c", "y", 8)
    names = ["x", "w", "wb"] if has_bias else ["x", "w"]
    conv = helper.make_node("ConvTranspose", names, ["c"], group=groups, strides=[2, 2])
    weights = [floats("w", 4, 8 // groups, 3, 3), *([floats("wb", 8)] if has_bias else [])]
    result = fold(make_model([conv, node], [*weights, *tensors]))
    assert kinds(result.model) == ["ConvTranspose"]


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [None, (), (1,), (5,), (1, 5)], ids=str)
@pytest.mark.parametrize("factors", [{}, {"alpha": 0.5, "beta": 2.0}, {"beta": 0.0}], ids=str)
def test_gemm_takes_the_node_in(
    transposed: int, bias: tuple[int, ...] | None, factors: dict[str, float]
) -> None:
    node, tensors = bn("c", "y", 5)
    names = ["x", "w"] if bias is None else ["x", "w", "wb"]
    gemm = helper.make_node("Gemm", names, ["c"], transB=transposed, **factors)
    weights = [floats("w", *((5, 4) if transposed else (4, 5)))]
    weights += [] if bias is None else [floats("wb", *bias)]
    model = make_model([gemm, node], [*weights, *tensors], shape=(3, 4))
    assert kinds(fold(model).model) == ["Gemm"]


def test_a_gemm_whose_bias_differs_by_row_stays() -> None:
    node, tensors = bn("c", "y", 5)
    gemm = helper.make_node("Gemm", ["x", "w", "wb"], ["c"])
    model = make_model(
        [gemm, node], [floats("w", 4, 5), floats("wb", 3, 1), *tensors], shape=(3, 4)
    )
    result = fold(model)
    assert not result.changed
    assert "differs from row to row" in result.findings[0]


def test_a_two_dimensional_matmul_becomes_a_gemm() -> None:
    node, tensors = bn("c", "y", 5)
    matmul = helper.make_node("MatMul", ["x", "w"], ["c"])
    result = fold(make_model([matmul, node], [floats("w", 4, 5), *tensors], shape=("N", 4)))
    assert kinds(result.model) == ["Gemm"]


def test_a_matmul_over_tokens_stays() -> None:
    node, tensors = bn("c", "y", 5)
    matmul = helper.make_node("MatMul", ["x", "w"], ["c"])
    result = fold(make_model([matmul, node], [floats("w", 4, 5), *tensors], shape=(2, 5, 4)))
    assert not result.changed
    assert "not known to be two-dimensional" in result.findings[0]


def test_two_nodes_in_a_row_fold_into_one_layer() -> None:
    first, tensors = bn("c", "n", 8)
    second, more = bn("n", "y", 8)
    conv = helper.make_node("Conv", ["x", "w"], ["c"])
    result = fold(make_model([conv, first, second], [floats("w", 8, 4, 3, 3), *tensors, *more]))
    assert kinds(result.model) == ["Conv"]
    assert len(initializers(result.model)) == 2


# Sharing


def test_a_weight_that_two_layers_share_is_folded_for_each() -> None:
    left, left_tensors = bn("a", "l", 4)
    right, right_tensors = bn("l2", "y", 4)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        left,
        helper.make_node("Conv", ["l", "w"], ["l2"]),
        right,
    ]
    model = make_model(nodes, [floats("w", 4, 4, 3, 3), *left_tensors, *right_tensors])
    result = fold(model)
    assert kinds(result.model) == ["Conv", "Conv"]
    assert initializers(result.model) == [
        "w/folded",
        "w/folded_bias",
        "w/folded_2",
        "w/folded_bias_2",
    ]


def test_a_weight_that_another_node_reads_is_kept() -> None:
    node, tensors = bn("a", "n", 4)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        node,
        helper.make_node("Conv", ["n", "w"], ["y"]),
    ]
    weight = floats("w", 4, 4, 3, 3)
    result = fold(make_model(nodes, [weight, *tensors]))
    assert result.model.graph.initializer[0] == weight
    assert [list(node.input) for node in result.model.graph.node] == [
        ["x", "w/folded", "w/folded_bias"],
        ["n", "w"],
    ]


def test_constants_and_identities_that_only_fed_the_node_go_too() -> None:
    node, tensors = bn("c", "y", 4)
    node.input[1] = "gamma alias"
    nodes = [
        helper.make_node("Constant", [], ["w"], value=floats("", 4, 4, 3, 3)),
        helper.make_node("Identity", ["w"], ["w alias"]),
        helper.make_node("Identity", ["y.gamma"], ["gamma alias"]),
        helper.make_node("Conv", ["x", "w alias"], ["c"]),
        node,
    ]
    result = fold(make_model(nodes, tensors))
    assert kinds(result.model) == ["Conv"]
    assert initializers(result.model) == ["w/folded", "w/folded_bias"]


def test_a_name_that_is_taken_is_avoided() -> None:
    node, tensors = bn("c", "n", 4)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        node,
        helper.make_node("Add", ["n", "w/folded"], ["y"]),
    ]
    model = make_model(nodes, [floats("w", 4, 4, 3, 3), floats("w/folded", 1), *tensors])
    assert fold(model).model.graph.node[0].input[1] == "w/folded_2"


# What stays


def test_a_node_before_the_layer_stays_and_is_told() -> None:
    first, tensors = bn("x", "n", 4)
    second, more = bn("c", "m", 4)
    third, most = bn("r", "y", 4)
    nodes = [
        first,
        helper.make_node("Conv", ["n", "w"], ["c"]),
        second,
        helper.make_node("Relu", ["m"], ["r"]),
        third,
    ]
    result = fold(make_model(nodes, [floats("w", 4, 4, 3, 3), *tensors, *more, *most]))
    assert kinds(result.model) == ["BatchNormalization", "Conv", "Relu", "BatchNormalization"]
    assert result.findings == (
        "BatchNormalization 'n' stays: no layer with weights is before it; 'x' is a graph input",
        "BatchNormalization 'y' stays: no layer with weights is before it; 'r' is the output of Relu",
    )


@pytest.mark.parametrize("reader", ["node", "graph output", "subgraph"])
def test_a_layer_whose_output_is_read_elsewhere_stays(reader: str) -> None:
    node, tensors = bn("c", "n", 4)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), node]
    tensors = [floats("w", 4, 4, 3, 3), *tensors]
    outputs: tuple[str, ...] = ("n",)
    if reader == "node":
        nodes.append(helper.make_node("Add", ["n", "c"], ["y"]))
        outputs = ("y",)
    elif reader == "graph output":
        outputs = ("n", "c")
    else:
        branches = [
            helper.make_graph(
                [helper.make_node(kind, ["c"], [f"inner {kind}"])],
                kind,
                [],
                [helper.make_tensor_value_info(f"inner {kind}", TensorProto.FLOAT, None)],
            )
            for kind in ("Abs", "Neg")
        ]
        tensors.append(numpy_helper.from_array(np.array(True), "yes"))
        keywords = dict(zip(("then_branch", "else_branch"), branches, strict=True))
        nodes.append(helper.make_node("If", ["yes"], ["y"], **keywords))
        outputs = ("n", "y")
    result = fold(make_model(nodes, tensors, outputs=outputs))
    assert not result.changed
    assert "'c', the output of Conv, is read elsewhere too" in result.findings[0]


def test_a_layer_with_a_computed_weight_stays() -> None:
    node, tensors = bn("c", "y", 4)
    nodes = [
        helper.make_node("Abs", ["w"], ["aw"]),
        helper.make_node("Conv", ["x", "aw"], ["c"]),
        node,
    ]
    result = fold(make_model(nodes, [floats("w", 4, 4, 3, 3), *tensors]))
    assert not result.changed
    assert "computed, not constant" in result.findings[0]


@pytest.mark.parametrize("values", [np.ones(4, np.int32), np.array(["a"] * 4)], ids=["int", "text"])
def test_a_layer_whose_weight_holds_no_floats_stays(values: np.ndarray) -> None:
    node, tensors = bn("c", "y", 4)
    weight = numpy_helper.from_array(np.tile(values[:, None, None, None], (1, 4, 3, 3)), "w")
    model = make_model([helper.make_node("Conv", ["x", "w"], ["c"]), node], [weight, *tensors])
    result = fold_batchnorm(model)
    assert not result.changed
    assert "holds no floats" in result.findings[0]


def test_all_that_has_no_part_in_it_keeps_its_bytes_and_order() -> None:
    node, tensors = bn("c", "n", 4)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first", doc_string="of the user"),
        node,
        helper.make_node("Relu", ["n"], ["r"], name="second"),
        helper.make_node("Conv", ["r", "w2"], ["y"], name="third"),
    ]
    kept = [floats("w2", 4, 4, 1, 1), floats("unused", 2)]
    model = make_model(nodes, [kept[0], floats("w", 4, 4, 3, 3), *tensors, kept[1]])
    model.doc_string = "the user's"
    model.metadata_props.add(key="author", value="the user")
    model.graph.value_info.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 4, 4, 4)) for name in "cnr"
    )
    body = [helper.make_node("Abs", ["a"], ["b"])]
    model.functions.append(
        helper.make_function("mine", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    )
    model.opset_import.append(helper.make_opsetid("mine", 1))
    folded = fold(model).model

    wanted = onnx.ModelProto()
    wanted.CopyFrom(model)
    wanted.graph.node[0].input[:] = ["x", "w/folded", "w/folded_bias"]
    wanted.graph.node[0].output[:] = ["n"]
    del wanted.graph.node[1]
    del wanted.graph.initializer[1:6]
    wanted.graph.initializer.extend(folded.graph.initializer[-2:])
    del wanted.graph.value_info[0]
    assert folded.SerializeToString() == wanted.SerializeToString()


def test_a_file_that_lists_initializers_as_inputs_keeps_that_form() -> None:
    node, tensors = bn("c", "y", 4)
    tensors = [floats("w", 4, 4, 3, 3), *tensors]
    model = make_model([helper.make_node("Conv", ["x", "w"], ["c"]), node], tensors)
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(item.name, item.data_type, item.dims) for item in tensors
    )
    result = fold_batchnorm(model)
    onnx.checker.check_model(result.model, full_check=True)
    assert [item.name for item in result.model.graph.input] == ["x", "w/folded", "w/folded_bias"]


# What cannot be


def test_channels_that_do_not_fit_are_refused() -> None:
    node, tensors = bn("c", "y", 3)
    model = make_model(
        [helper.make_node("Conv", ["x", "w"], ["c"]), node], [floats("w", 4, 4, 3, 3), *tensors]
    )
    with pytest.raises(ModelError, match="3 channels behind a Conv"):
        fold_batchnorm(model)


def test_a_transposed_conv_whose_groups_do_not_divide_it_is_refused() -> None:
    node, tensors = bn("c", "y", 4)
    conv = helper.make_node("ConvTranspose", ["x", "w"], ["c"], group=3)
    with pytest.raises(ModelError, match=r"behind a ConvTranspose with the weight \[4, 2, 3, 3\]"):
        fold_batchnorm(make_model([conv, node], [floats("w", 4, 2, 3, 3), *tensors]))


def test_a_variance_of_zero_without_epsilon_is_refused() -> None:
    node, tensors = bn("c", "y", 4)
    node.attribute[0].f = 0.0
    tensors[3] = numpy_helper.from_array(np.zeros(4, np.float32), "y.var")
    model = make_model(
        [helper.make_node("Conv", ["x", "w"], ["c"]), node], [floats("w", 4, 4, 3, 3), *tensors]
    )
    with pytest.raises(NumericsError, match="not finite") as caught:
        fold_batchnorm(model)
    assert caught.value.node == "y"


# A network as PyTorch writes it


class Residual(torch.nn.Module):
    """Strided, depthwise and transposed convolutions, a residual add, a linear layer with BatchNorm1d."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, 2, 1), torch.nn.BatchNorm2d(8))
        self.body = torch.nn.Sequential(
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
            torch.nn.BatchNorm2d(8),
        )
        self.up = torch.nn.Sequential(
            torch.nn.ConvTranspose2d(8, 6, 2, 2, groups=2), torch.nn.BatchNorm2d(6)
        )
        self.head = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.up(x + self.body(x))
        y: torch.Tensor = self.head(x.mean((2, 3)))
        return y


def test_a_network_of_pytorch_folds_but_for_its_preactivation() -> None:
    torch.manual_seed(0)
    net = Residual().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.2, 3.0)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # the TorchScript exporter is deprecated
        torch.onnx.export(
            net,
            (torch.zeros(2, 4, 8, 8),),
            file,
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            opset_version=17,
        )
    model = onnx.load_model_from_string(file.getvalue())
    assert len(read_bn_table(model).entries) == 5
    result = fold(model)
    assert kinds(result.model).count("BatchNormalization") == 1
    assert len(result.findings) == 1


def test_shapes_are_inferred_once_and_not_once_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, constants = [], []
    for index in range(5):
        weight = floats(f"w{index}", 4, 4)
        nodes.append(helper.make_node("MatMul", [f"t{index}", weight.name], [f"m{index}"]))
        node, own = bn(f"m{index}", f"t{index + 1}", 4)
        nodes.append(node)
        constants += [weight, *own]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("t0", "t5")
    )
    graph = helper.make_graph(nodes, "net", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    count = 0
    infer = onnx.shape_inference.infer_shapes

    def counted(*arguments: object, **keywords: object) -> onnx.ModelProto:
        nonlocal count
        count += 1
        return infer(*arguments, **keywords)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", counted)
    assert kinds(fold_batchnorm(model).model) == ["Gemm"] * 5
    assert count == 2  # a look at what can be folded, and the round that folds it


def test_one_that_reads_a_constant_has_no_statistics_to_match(parse_graph) -> None:
    model = parse_graph(
        """g (float[2,3] x) => (float[2,3] y)
        <float[2,3] k, float[3] g0, float[3] b, float[3] m, float[3] v>
        { n = BatchNormalization(k, g0, b, m, v) y = Add(x, n) }""",
        v=np.ones(3, np.float32),
    )
    assert read_bn_table(model).entries == ()
