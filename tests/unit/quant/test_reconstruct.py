"""Reconstruction fits units to the teacher, on the codes that are written."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from interrupted import Interrupted

from edgeq.core import checkpoints
from edgeq.core.checkpoints import Checkpoints
from edgeq.core.errors import BuildError
from edgeq.core.plan import Role
from edgeq.core.progress import NoProgress
from edgeq.core.recipes import Kind, ReconstructionSpec, list_recipes
from edgeq.quant.cones import cone
from edgeq.quant.reconstruct import reconstruct
from edgeq.quant.student import Student
from edgeq.quant.unit_objectives import channel_axis, channel_error, suffix_of
from edgeq.quant.units import partition
from edgeq.teacher.importer import import_teacher

SPEC = ReconstructionSpec(
    iterations=12, batch=8, rounding_rate=0.1, scale_rate=0.01, keep=0.5, prefix=0.5
)
METHODS = {
    item.name: item.reconstruction for item in list_recipes() if item.reconstruction.iterations
}


@pytest.fixture(scope="module")
def case(make_case):
    return make_case("w3a3")


@pytest.fixture(scope="module")
def problem(case, make_problem):
    return make_problem(case, blocks=("r0", "r2"))


def fit(case, problem, spec, seed=0, **more):
    student = case.student()
    history = reconstruct(problem, student, [case.x], spec, seed=seed, **more)
    return student, history


def error(case, student):
    with torch.no_grad():
        return float(
            (student.teacher.module(case.x)[0] - case.teacher.module(case.x)[0]).square().mean()
        )


def largest_change(first, second):
    a, b = first.values(), second.values()
    return max(np.abs(a.codes[name].astype(int) - b.codes[name]).max() for name in a.codes)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_ends_nearer_to_the_teacher_than_it_began(case, problem, name):
    spec = dataclasses.replace(METHODS[name], iterations=60, batch=8, rounding_rate=0.1)
    student, _ = fit(case, problem, spec)
    assert error(case, student) < error(case, case.student())


@pytest.mark.parametrize("unit", ["block", "layer"])
def test_rounding_moves_a_code_by_one_at_most(case, problem, unit):
    student, _ = fit(case, problem, dataclasses.replace(SPEC, unit=unit))
    assert largest_change(student, case.student()) == 1


def test_inside_a_residual_branch_no_layer_is_judged_by_the_prediction(case):
    layers = partition(case.teacher, case.plan, ("r0", "r2"), [case.x[:2]], unit="layer")
    judged = {unit.weights[0]: suffix_of(case.teacher, unit) is not None for unit in layers}
    assert judged == {"w0": True, "w1": False, "w2": False, "w3": False}


def test_layers_are_fitted_with_the_prediction_too(case, problem):
    spec = dataclasses.replace(METHODS["pd-quant"], iterations=2, batch=8, unit="layer")
    assert fit(case, problem, spec)[1]


def test_scales_that_no_value_sees_are_not_learned(case, problem):
    spec = dataclasses.replace(SPEC, keep=0.0, rounding="nearest")
    student, _ = fit(case, problem, spec)
    assert student.values().scales.keys() == case.student().values().scales.keys()
    assert largest_change(student, case.student()) == 0


def test_the_written_codes_compute_what_the_student_does(case, problem):
    student, _ = fit(case, problem, SPEC)
    again = Student.from_values(case.teacher, case.plan, student.values())
    with torch.no_grad():
        torch.testing.assert_close(
            again.teacher.module(case.x)[0], student.teacher.module(case.x)[0], atol=1e-5, rtol=1e-4
        )


# Three units of 4 steps: interrupted inside one, at the end of one, in BRECQ's second pass, and at its last step. The
# second pass leaves a unit out that has no scales of its own. What is left begins with what was kept, told at once.
@pytest.mark.parametrize(
    ("name", "step", "left"),
    [
        ("genie-m", 6, 1 + 8),
        ("genie-m", 12, 1 + 4),
        ("pd-quant", 8, 1 + 8),
        ("brecq", 6, 1 + 8 + 9),
        ("brecq", 15, 1 + 8),
        ("brecq", 21, 1 + 4),
    ],
)
def test_an_interrupted_reconstruction_goes_on_and_ends_in_the_same_bytes(
    case, problem, monkeypatch, tmp_path, name, step, left
):
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    spec = dataclasses.replace(METHODS[name], iterations=4, batch=8)
    whole, history = fit(case, problem, spec)
    kept, steps = Checkpoints(tmp_path, "key"), Counting()
    with pytest.raises(KeyboardInterrupt):
        fit(case, problem, spec, progress=Interrupted(step), checkpoints=kept)
    found, again = fit(case, problem, spec, progress=steps, checkpoints=kept)
    assert largest_change(found, whole) == 0
    for tensor, scale in whole.values().scales.items():
        assert found.values().scales[tensor].tobytes() == scale.tobytes()
    assert again == history
    assert steps.calls == left


class Counting(NoProgress):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.calls = 0

    def advance(self, n: int = 1, **figures: float) -> None:
        self.calls += 1


def test_the_same_seed_gives_the_same_values_and_another_does_not(case, problem):
    first, again, other = (fit(case, problem, SPEC, seed)[0].values() for seed in (0, 0, 1))
    same = [np.array_equal(first.codes[name], again.codes[name]) for name in first.codes]
    assert all(same)
    assert any(not np.array_equal(first.codes[name], other.codes[name]) for name in first.codes)


def test_what_has_no_rate_stays(case, problem):
    spec = dataclasses.replace(SPEC, rounding="nearest", scale_rate=0.0)
    student, history = fit(case, problem, spec)
    assert history == []
    assert largest_change(student, case.student()) == 0
    before, after = case.student().values(), student.values()
    assert all(np.array_equal(before.scales[name], after.scales[name]) for name in before.scales)


@pytest.mark.parametrize(
    ("figures", "role", "moves"),
    [
        ({"scale_rate": 0.0}, Role.ACTIVATION, False),
        ({"scale_rate": 0.01}, Role.ACTIVATION, True),
        ({"scale_rate": 0.01, "activations": "float"}, Role.ACTIVATION, False),
        ({"scale_rate": 0.01, "activations": "after"}, Role.ACTIVATION, True),
        ({"weight_scale_rate": 0.0}, Role.WEIGHT, False),
        ({"weight_scale_rate": 0.01}, Role.WEIGHT, True),
    ],
)
def test_scales_are_learned_where_they_have_a_rate(case, problem, figures, role, moves):
    student, _ = fit(case, problem, dataclasses.replace(SPEC, **figures))
    before, after = case.student().parameters_of(role), student.parameters_of(role)
    assert any(not torch.equal(before[name], after[name]) for name in before) is moves


def test_weights_and_biases_themselves_can_be_learned(case, problem):
    spec = dataclasses.replace(SPEC, rounding="weights", weight_rate=0.05, bias_rate=0.01)
    student, _ = fit(case, problem, spec)
    assert error(case, student) < error(case, case.student())
    biases = {name: bias for name, (bias, _) in case.student().biases().items()}
    assert all(not torch.equal(bias, biases[name]) for name, (bias, _) in student.biases().items())


def test_quantizers_are_on_and_nothing_is_dropped_when_it_is_done(case, problem):
    student, _ = fit(case, problem, dataclasses.replace(SPEC, activations="float"))
    assert all(quantizer.enabled for quantizer in student.quantizers.values())
    with torch.no_grad():
        first, second = (student.teacher.module(case.x)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_the_prediction_counts_in_all_units_but_the_last(case, problem):
    _, history = fit(case, problem, dataclasses.replace(SPEC, prediction=1.0))
    has_it = ["prediction" in row for row in history]
    assert has_it[0]
    assert not has_it[-1]


def test_an_output_without_classes_has_a_prediction_too(case, make_problem):
    samples = dataclasses.replace(make_problem(case).samples, labels=None)
    problem = make_problem(case, blocks=("r0", "r2"), samples=samples)
    _, history = fit(case, problem, dataclasses.replace(SPEC, prediction=1.0))
    assert history[0]["prediction"] > 0


def test_the_regulariser_waits_for_the_warm_up(case, problem):
    _, history = fit(case, problem, dataclasses.replace(SPEC, warmup=0.5))
    assert "regulariser" not in history[0]
    assert "regulariser" in history[-1]


def test_a_loss_that_runs_away_ends_the_build(case, problem):
    with pytest.raises(BuildError, match="no longer finite") as caught:
        fit(case, problem, dataclasses.replace(SPEC, regulariser=float("inf")))
    assert "reconstruction.rounding_rate" in caught.value.mend


def test_weights_outside_every_unit_are_told(case, make_problem, caplog):
    """The second head does not bear on the first output."""
    from edgeq.quant import reconstruct as module

    module._tell_left_alone(case.plan, ())
    assert "4 of 4 weights are in no unit" in caplog.text


def test_the_error_is_summed_over_channels():
    made, wanted = torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    assert float(channel_error(made, wanted)) == 3.0
    assert float(channel_error(torch.ones(2, 7, 3), torch.zeros(2, 7, 3), axis=1)) == 7.0
    assert float(channel_error(torch.ones(2, 7, 3), torch.zeros(2, 7, 3), axis=2)) == 3.0
    assert float(channel_error(2 * made, wanted, 3.0)) == 24.0


@pytest.mark.parametrize(
    ("layers", "axis"),
    [
        ("a = Conv (x, w) y = Relu (a)", 1),
        ("a = MatMul (x, m) y = Relu (a)", 2),
        ("a = Conv (x, w) t = Transpose<perm=[0,2,1]> (a) y = MatMul (t, m)", 2),
        ("a = Conv (x, w) r = Relu (a) y = Transpose<perm=[0,2,1]> (r)", 2),
        ("a = MatMul (x, m) y = Transpose<perm=[0,2,1]> (a)", 1),
        ("a = Conv (x, w) g = MatMul (a, m) s = Sigmoid (g) y = Mul (a, s)", 1),
    ],
)
def test_channels_of_three_axes_lie_where_the_last_layer_puts_them(parse_graph, layers, axis):
    text = f"g (float[N,3,3] x) => (float[N,3,3] y) <float[3,3,1] w, float[3,3] m> {{ {layers} }}"
    teacher = import_teacher(parse_graph(text))
    part = cone(teacher.module, (teacher.fx_node_of["x"],), (teacher.fx_node_of["y"],))
    assert channel_axis(part) == axis


@pytest.mark.parametrize("power", [2.0, 2.4])
def test_the_error_of_channels_has_the_gradient_of_its_equation(power):
    made, wanted = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 5, 5)
    made[0, 0, 0, 0] = wanted[0, 0, 0, 0]
    gradients = []
    for error in (
        lambda x: channel_error(x, wanted, power),
        lambda x: (x - wanted).abs().pow(power).sum(1).mean(),
    ):
        x = made.clone().requires_grad_(True)
        torch.autograd.backward(error(x))
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


def test_a_unit_of_a_one_dimensional_convolution_is_fitted_along_its_channels(
    make_case, make_problem, monkeypatch
):
    text = """g (float[N,3,8,8] x) => (float[N,4,62] y) <int64[3] rows = {0,3,64}, float[4,3,3] w>
    { s = Reshape(x, rows) y = Conv(s, w) }"""
    found = make_case("w4a4", text=text, inputs=())
    axes = []

    def noted(made, wanted, power, *, axis):
        axes.append(axis)
        return channel_error(made, wanted, power, axis=axis)

    monkeypatch.setattr("edgeq.quant.reconstruct.channel_error", noted)
    fit(found, make_problem(found, blocks=(), last_map=None), SPEC)
    assert set(axes) == {1}


def test_files_do_not_stay(case, problem, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fit(case, problem, dataclasses.replace(SPEC, iterations=1))
    assert list(tmp_path.iterdir()) == []


def test_every_reconstruction_recipe_is_one_of_numbers():
    assert {"adaround", "brecq", "qdrop", "genie-m", "pd-quant"} <= set(METHODS)
    kinds = {item.kind for item in list_recipes() if item.name in METHODS}
    assert kinds == {Kind.NUMBERS}
