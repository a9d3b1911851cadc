"""Training: it helps, it is the same every time, it leaves the teacher alone, and it says when it fails."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from fake_recorder import FakeRecorder
from interrupted import Interrupted

from edgeq.core import checkpoints
from edgeq.core.checkpoints import Checkpoints
from edgeq.core.errors import BuildError, NumericsError
from edgeq.core.numerics import choose_scale
from edgeq.core.quantized import QuantizedValues
from edgeq.core.specs import Layout
from edgeq.quant import train
from edgeq.quant.objectives import relative_error
from edgeq.quant.train import train_student
from edgeq.teacher.compute import Compute


@pytest.fixture(scope="module")
def case(make_case):
    return make_case("w3a3")


def bytes_of(values: QuantizedValues) -> dict[str, bytes]:
    return {
        f"{group}/{name}": array.tobytes()
        for group in ("scales", "codes", "floats")
        for name, array in getattr(values, group).items()
    }


def output_error(case, student) -> float:
    with torch.no_grad():
        return float(
            relative_error(student.teacher.module(case.x)[0], case.teacher.module(case.x)[0])
        )


class Listener:
    """Keeps what training tells."""

    def __init__(self) -> None:
        self.steps = self.calls = 0
        self.total = 0
        self.summary = ""

    def start(self, stage: str, total: int, unit: str) -> None:
        self.total = total

    def advance(self, n: int = 1, **figures: float) -> None:
        self.steps += n
        self.calls += 1

    def finish(self, summary: str) -> None:
        self.summary = summary


def test_training_brings_the_student_nearer_to_the_teacher(case, problem, make_spec):
    listener = Listener()
    spec = make_spec(
        steps=40,
        batch=16,
        scale_rate=0.01,
        bias_rate=0.01,
        features=0.0,
        hard_label=0.0,
        activation_map=0.0,
        flip=False,
        shift=0,
        mix=0.0,
    )
    before, _ = train_student(problem, make_spec(steps=0), seed=0)
    after, history = train_student(problem, spec, seed=0, progress=listener)
    assert output_error(case, after) < 0.7 * output_error(case, before)
    assert np.mean([row["loss"] for row in history[-5:]]) < 0.5 * history[0]["loss"]
    assert (listener.steps, listener.total) == (40, 40)
    assert "4 layers" in listener.summary


def test_a_seed_gives_the_same_bytes_and_another_seed_others(problem, make_spec):
    first, again, other = (
        bytes_of(train_student(problem, make_spec(), seed=seed)[0].values()) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_replayed_steps_give_the_same_values(problem, make_spec, monkeypatch):
    plain, history = train_student(problem, make_spec(steps=8), seed=0)
    recorder = FakeRecorder()
    monkeypatch.setattr(Compute, "recorder", lambda _: recorder)
    replayed, again = train_student(problem, make_spec(steps=8), seed=0)
    assert recorder.replayed == 2 + 4  # two that prove it, and steps 5 to 8
    for row, expected in zip(again, history, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    for name, scale in replayed.values().scales.items():
        np.testing.assert_allclose(scale, plain.values().scales[name], rtol=1e-5)


@pytest.mark.parametrize("after", [1, 5, 8])
def test_an_interrupted_training_goes_on_and_ends_in_the_same_bytes(
    problem, make_spec, monkeypatch, tmp_path, after
):
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    whole, history = train_student(problem, make_spec(steps=8), seed=0)
    kept, listener = Checkpoints(tmp_path, "key"), Listener()
    interrupted = Interrupted(after)
    with pytest.raises(KeyboardInterrupt):
        train_student(problem, make_spec(steps=8), seed=0, progress=interrupted, checkpoints=kept)
    found, again = train_student(
        problem, make_spec(steps=8), seed=0, progress=listener, checkpoints=kept
    )
    assert bytes_of(found.values()) == bytes_of(whole.values())
    assert again == history
    assert listener.steps == 8
    assert listener.calls == 8 - (after - 1) + (after > 1)  # what was kept is told of at once
    assert (f"after step {after - 1} of an interrupted run" in listener.summary) == (after > 1)


def test_global_random_numbers_have_no_say_and_stay_as_they_are(problem, make_spec):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = bytes_of(train_student(problem, make_spec(), seed=0)[0].values())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert bytes_of(train_student(problem, make_spec(), seed=0)[0].values()) == first


def test_the_teacher_is_left_as_it_was(case, problem, make_spec):
    before = {name: value.clone() for name, value in case.teacher.module.state_dict().items()}
    code = case.teacher.module.code
    train_student(problem, make_spec(), seed=0)
    assert case.teacher.module.code == code
    for name, value in case.teacher.module.state_dict().items():
        assert torch.equal(before[name], value)
    for parameter in case.teacher.module.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None


def test_without_steps_the_first_ranges_and_the_rounded_weights_stay(case, problem, make_spec):
    listener = Listener()
    student, history = train_student(problem, make_spec(steps=0), seed=0, progress=listener)
    assert history == []
    assert "no training step" in listener.summary
    assert bytes_of(student.values()) == bytes_of(case.student().values())
    for name, weight in student.weights().items():
        assert torch.equal(weight, case.teacher.module.get_parameter(name))


def test_weights_scales_and_biases_move_and_a_fixed_range_does_not(case, problem, make_spec):
    before = case.student()
    after, _ = train_student(problem, make_spec(), seed=0)
    for name, quantizer in after.quantizers.items():
        moved = not torch.equal(quantizer.log_scale, before.quantizers[name].log_scale)
        assert moved == (name != "x"), name
    assert float(after.quantizers["x"].scale()) == pytest.approx(
        float(choose_scale(2.0, high=127)), rel=1e-6
    )
    for name, weight in after.weights().items():
        assert not torch.equal(weight, before.weights()[name]), name
    for name, (bias, _) in after.biases().items():
        assert not torch.equal(bias, before.biases()[name][0]), name


@pytest.mark.parametrize(
    ("rate", "still"),
    [("weight_rate", "weights"), ("bias_rate", "biases"), ("scale_rate", "scales")],
)
def test_a_rate_of_zero_keeps_what_it_would_move(case, problem, make_spec, rate, still):
    before = case.student()
    after, _ = train_student(problem, make_spec(**{rate: 0.0}), seed=0)
    parts = {
        "weights": lambda student: student.weights(),
        "biases": lambda student: {name: bias for name, (bias, _) in student.biases().items()},
        "scales": lambda student: {
            name: quantizer.log_scale for name, quantizer in student.quantizers.items()
        },
    }
    for part, read in parts.items():
        old, new = read(before), read(after)
        assert all(torch.equal(old[name], new[name]) for name in old) == (part == still), part


def test_history_has_each_term_and_evenly_spaced_steps(problem, make_spec):
    _, history = train_student(problem, make_spec(steps=4), seed=0)
    assert [row["step"] for row in history] == [0, 1, 2, 3]
    for row in history:
        assert set(row) == {
            "step",
            "loss",
            "distillation",
            "features",
            "hard_label",
            "activation_map",
        }
        assert all(np.isfinite(value) for value in row.values())


def test_the_loss_is_the_weighted_sum_of_its_terms(problem, make_spec):
    spec = make_spec(steps=1, distillation=2.0, features=3.0, hard_label=0.5, activation_map=4.0)
    _, (row,) = train_student(problem, spec, seed=0)
    weights = {"distillation": 2.0, "features": 3.0, "hard_label": 0.5, "activation_map": 4.0}
    wanted = sum(weight * row[name] for name, weight in weights.items())
    assert row["loss"] == pytest.approx(wanted, rel=1e-5)


def test_a_long_history_is_thinned_to_about_two_hundred_rows(problem, make_spec, monkeypatch):
    monkeypatch.setattr(
        train._Loop, "step", lambda self, x, labels, *, share, part: {"loss": share}
    )
    spec = make_spec(steps=410, batch=1, flip=False, shift=0, mix=0.0)
    _, history = train_student(problem, spec, seed=0)
    steps = [row["step"] for row in history]
    assert 200 <= len(steps) <= 206
    assert (steps[0], steps[-1]) == (0, 409)


@pytest.mark.parametrize(
    ("fields", "figures", "term"),
    [
        ({"blocks": ()}, {}, "features"),
        ({}, {"features": 0.0}, "features"),
        ({"last_map": None}, {}, "activation_map"),
        ({}, {"activation_map": 0.0}, "activation_map"),
        ({}, {"hard_label": 0.0}, "hard_label"),
    ],
    ids=["no_blocks", "no_features", "no_map", "no_activation_map", "no_hard_label"],
)
def test_a_term_without_its_tensor_or_weight_is_left_out(
    case, make_problem, make_spec, fields, figures, term
):
    _, history = train_student(make_problem(case, **fields), make_spec(steps=1, **figures), seed=0)
    assert term not in history[0]
    assert "distillation" in history[0]


def test_a_network_that_is_no_classifier_is_trained_on_its_outputs(case, make_problem, make_spec):
    problem = make_problem(case)
    samples = dataclasses.replace(problem.samples, labels=None)
    problem = make_problem(case, samples=samples, last_map=None)
    _, history = train_student(problem, make_spec(steps=2), seed=0)
    assert set(history[0]) == {"step", "loss", "outputs", "features"}


def test_a_batch_larger_than_the_set_is_the_whole_set(problem, make_spec):
    _, history = train_student(problem, make_spec(steps=2, batch=500), seed=0)
    assert len(history) == 2


def test_one_sample_and_one_output_value_have_no_spread_and_train_all_the_same(
    make_case, make_problem, make_spec
):
    text = """g (float[N,3,8,8] x) => (float[N,1] y) <float[4,3,3,3] w0, float[1,4] w1, float[1] b1>
    { c = Conv(x, w0) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w1, b1) }"""
    found = make_case("w4a4", text=text, inputs=())
    problem = make_problem(found, blocks=("r",), last_map=None)
    first = dataclasses.replace(problem.samples, samples=found.x.numpy()[:1], labels=None)
    spec = make_spec(steps=2, range_samples=1)
    _, history = train_student(dataclasses.replace(problem, samples=first), spec, seed=0)
    assert len(history) == 2


def test_channels_last_pictures_are_trained_on_like_channels_first_ones(
    case, make_case, make_problem, make_spec
):
    text = """g (float[N,8,8,3] x) => (float[N,5] y)
    <float[4,3,3,3] w0, float[4] b0, float[5,4] w3, float[5] b3>
    { t = Transpose<perm=[0,3,1,2]>(x) c0 = Conv(t, w0, b0) r0 = Relu(c0) p = GlobalAveragePool(r0)
      f = Flatten(p) y = Gemm<transB=1>(f, w3, b3) }"""
    plain = text.replace("[N,8,8,3]", "[N,3,8,8]").replace(
        "t = Transpose<perm=[0,3,1,2]>(x)", "t = Identity(x)"
    )
    trained = []
    for layout, graph in ((Layout.NCHW, plain), (Layout.NHWC, text)):
        found = make_case("w4a4", text=graph, inputs=())
        problem = make_problem(found, blocks=("r0",), last_map="r0")
        if layout is Layout.NHWC:
            x = np.ascontiguousarray(found.x.permute(0, 2, 3, 1).numpy())
            problem = dataclasses.replace(
                problem,
                samples=dataclasses.replace(problem.samples, samples=x),
                inputs=(dataclasses.replace(problem.inputs[0], layout=layout, shape=(8, 8, 3)),),
            )
        trained.append(train_student(problem, make_spec(steps=3), seed=0)[1])
    for first, last in zip(*trained, strict=True):
        assert first["loss"] == pytest.approx(last["loss"], rel=1e-3)


def test_what_is_no_picture_is_not_augmented(problem, make_spec):
    other = dataclasses.replace(
        problem, inputs=(dataclasses.replace(problem.inputs[0], layout=Layout.OTHER),)
    )
    calm = make_spec(flip=False, shift=0, mix=0.0)
    first, second = (
        bytes_of(train_student(other, spec, seed=0)[0].values()) for spec in (make_spec(), calm)
    )
    assert first == second


def test_a_loss_that_is_no_longer_finite_is_told(problem, make_spec):
    with pytest.raises(BuildError, match="no longer finite") as caught:
        train_student(problem, make_spec(features=float("inf")), seed=0)
    assert "training.weight_rate" in caught.value.mend


def test_samples_that_are_not_finite_are_told(case, make_problem, make_spec):
    problem = make_problem(case)
    x = problem.samples.samples.copy()
    x[0, 0, 0, 0] = np.nan
    broken = make_problem(case, samples=dataclasses.replace(problem.samples, samples=x))
    with pytest.raises(NumericsError, match=r"'\w+': NaN or infinity"):
        train_student(broken, make_spec(), seed=0)


def test_a_mask_of_minus_infinity_is_nothing_that_training_left(make_case, make_problem, make_spec):
    text = """g (float[N,3,8,8] x) => (float[N,5] y)
    <float[5,3,1,1] w, float[5] mask, float[5,5] v>
    { c = Conv(x, w) f = ReduceMean<keepdims=0,axes=[2,3]>(c) s = Add(f, mask) p = Softmax(s) y = MatMul(p, v) }"""
    case = make_case(text=text, mask=np.array([0, -np.inf, 0, 0, 0], np.float32))
    problem = make_problem(case, blocks=(), last_map=None)
    student, history = train_student(problem, make_spec(activation_map=0.0), seed=0)
    assert np.isfinite(history[-1]["loss"])
    student.values().require_complete(case.plan)


def test_nan_that_the_last_step_leaves_is_told_with_its_tensor(problem, make_spec, monkeypatch):
    step = train._Loop.step

    def spoil(loop, x, labels, *, share, part):
        terms = step(loop, x, labels, share=share, part=part)
        with torch.no_grad():
            loop.optimizer.param_groups[0]["params"][0].fill_(torch.nan)
        return terms

    monkeypatch.setattr(train._Loop, "step", spoil)
    with pytest.raises(BuildError, match=r"NaN or infinity in 'w\d?"):
        train_student(problem, make_spec(steps=1), seed=0)
