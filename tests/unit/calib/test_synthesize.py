"""The sample set: seeded, balanced, legal, and nearer to the recorded statistics than noise is."""

from __future__ import annotations

import dataclasses
from unittest import mock

import numpy as np
import pytest
import torch
from interrupted import Interrupted

import calib.view
from calib.filters import channels_first_filter
from calib.problem import no_statistics
from calib.statistics import batch_term, measure, targets_from_table
from calib.synthesize import _labels, synthesize
from calib.units import legal_box
from calib.unoptimised import initial_pixels, leaves
from edgeq.core.checkpoints import Checkpoints
from edgeq.core.errors import CalibError
from edgeq.core.progress import NoProgress
from edgeq.core.specs import BNTable, Layout
from edgeq.graph.batchnorm import read_bn_table
from edgeq.teacher.compute import Compute
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.teacher import with_outputs


class Listener:
    """Keeps what the loop tells."""

    def __init__(self) -> None:
        self.total = 0
        self.losses: list[float] = []
        self.summary = ""

    def start(self, stage: str, total: int, unit: str) -> None:
        self.total = total

    def advance(self, n: int = 1, **figures: float) -> None:
        self.losses += [figures["loss"]] if figures else []

    def finish(self, summary: str) -> None:
        self.summary = summary


def statistics_loss(problem, x: np.ndarray) -> float:
    names = [entry.tensor for entry in problem.table.entries]
    with torch.no_grad():
        _, found = with_outputs(problem.teacher, names)(torch.from_numpy(x))
    moments = [measure(a) for a in found]
    return float(batch_term(moments, targets_from_table(problem.table)))


def test_a_seed_gives_the_same_bytes_and_another_seed_others(problem, make_spec):
    first, second, other = (synthesize(problem, make_spec(), seed=seed) for seed in (0, 0, 1))
    assert first.samples.tobytes() == second.samples.tobytes()
    assert first.provenance == second.provenance
    assert first.samples.tobytes() != other.samples.tobytes()


def test_the_losses_are_kept_for_each_iteration_as_means_over_the_batches(problem, make_spec):
    listener = Listener()
    spec = make_spec(samples=8, batch=4, iterations=3, decorrelation=0.0)
    history = synthesize(problem, spec, seed=0, progress=listener).history
    assert [entry["step"] for entry in history] == [0, 1, 2]
    assert list(history[0]) == ["step", "statistics", "sample", "label", "loss"]
    told = np.asarray(listener.losses).reshape(2, 3).mean(axis=0)
    np.testing.assert_allclose([entry["loss"] for entry in history], told, rtol=1e-5)
    assert history == synthesize(problem, spec, seed=0).history


# With a margin, a batch looks at those before it.
@pytest.mark.parametrize(
    "own",
    [
        {},
        {"margin": 1.0},
        {"margin": 1.0, "margin_low": 0.3, "label": 0.0},
        {"label": 0.0, "leaves_per_sample": 1.0},
    ],
)
def test_an_interrupted_synthesis_goes_on_after_its_last_batch(problem, make_spec, tmp_path, own):
    spec = make_spec(samples=12, batch=4, iterations=3, **own)
    whole = synthesize(problem, spec, seed=0)
    kept, listener = Checkpoints(tmp_path, "key"), Listener()
    with pytest.raises(KeyboardInterrupt):
        synthesize(problem, spec, seed=0, progress=Interrupted(8), checkpoints=kept)
    found = synthesize(problem, spec, seed=0, progress=listener, checkpoints=kept)
    assert found.samples.tobytes() == whole.samples.tobytes()
    assert found.labels.tobytes() == whole.labels.tobytes()
    assert found.history == whole.history
    assert len(listener.losses) == 3  # the last of three batches
    assert "2 of 3 batches from an interrupted run" in listener.summary


def test_global_random_numbers_have_no_say_and_stay_as_they_are(problem, make_spec):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = synthesize(problem, make_spec(), seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert synthesize(problem, make_spec(), seed=0).samples.tobytes() == first.samples.tobytes()


def test_samples_come_in_whole_batches_and_classes_in_turn(problem, make_spec):
    found = synthesize(problem, make_spec(samples=10, batch=4, iterations=1), seed=0)
    assert (found.samples.shape, found.samples.dtype) == ((12, 3, 8, 8), np.float32)
    assert found.samples.flags.c_contiguous
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == [index % 5 for index in range(12)]
    assert found.input_name == "x"


def test_no_sample_of_a_run_is_another_ones_copy(problem, make_spec):
    found = synthesize(problem, make_spec(), seed=0).samples
    assert len({sample.tobytes() for sample in found}) == len(found)


@pytest.mark.parametrize("layout", [Layout.NCHW, Layout.NHWC], ids=str)
@pytest.mark.parametrize("source", ["optimise", "leaves", "noise"])
def test_every_sample_is_inside_the_legal_box_of_its_channel(
    make_problem, make_spec, layout, source
):
    problem = make_problem(layout)
    found = synthesize(problem, make_spec(source=source, learning_rate=1.0), seed=0)
    assert found.samples.shape[1:] == problem.inputs[0].shape
    channels = np.moveaxis(found.samples, -1 if layout is Layout.NHWC else 1, 0)
    for channel, low, high in zip(
        channels, problem.inputs[0].low, problem.inputs[0].high, strict=True
    ):
        assert channel.min() >= low
        assert channel.max() <= high
        assert channel.max() == pytest.approx(high)


@pytest.mark.parametrize("start", ["leaves", "noise"])
@pytest.mark.parametrize("layout", [Layout.NCHW, Layout.NHWC], ids=str)
def test_the_statistics_come_far_nearer_than_those_of_noise(make_problem, make_spec, layout, start):
    problem = make_problem(layout)
    listener = Listener()
    spec = make_spec(
        start=start, batch=8, iterations=40, sample_statistics=0.0, decorrelation=0.0, label=0.0
    )
    made = synthesize(problem, spec, seed=0, progress=listener)
    noise = synthesize(problem, make_spec(source="noise", batch=8), seed=0)
    assert statistics_loss(problem, made.samples) < 0.3 * statistics_loss(problem, noise.samples)
    assert np.mean(listener.losses[-5:]) < 0.5 * listener.losses[0]
    assert (listener.total, len(listener.losses)) == (40, 40)
    assert "8 samples" in listener.summary


def test_the_loop_is_the_same_for_every_layout(make_problem, make_spec):
    """From the same pictures the same ones are made: mirrored, shifted and filtered along rows and columns."""
    spec = make_spec(
        start="leaves", iterations=8, slack_quantile=0.0, decorrelation=0.0, shift=2, crop=0.5
    )
    first, last = (
        synthesize(make_problem(layout), spec, seed=0).samples
        for layout in (Layout.NCHW, Layout.NHWC)
    )
    np.testing.assert_allclose(first, last.transpose(0, 3, 1, 2), atol=1e-3)


@pytest.mark.parametrize("layout", [Layout.NCHW, Layout.NHWC], ids=str)
def test_the_teacher_sees_the_pictures_and_their_mirror_images(
    make_problem, make_spec, monkeypatch, layout
):
    seen = []
    monkeypatch.setattr(
        calib.view, "random_shift", lambda x, *_, **__: seen.append(x.detach()) or x
    )
    spec = make_spec(samples=4, iterations=30, learning_rate=1e-12, lowpass=0.0)
    synthesize(make_problem(layout), spec, seed=0)
    columns = 2 if layout is Layout.NHWC else 3
    mirrored = [not torch.equal(x, seen[0]) for x in seen]
    assert 5 <= sum(mirrored) <= 25
    for x, is_mirrored in zip(seen, mirrored, strict=True):
        torch.testing.assert_close(x, seen[0].flip(columns) if is_mirrored else seen[0])


def test_what_is_no_picture_is_neither_mirrored_nor_shifted(problem, make_spec):
    vector = dataclasses.replace(problem.inputs[0], layout=Layout.OTHER)
    other = dataclasses.replace(problem, inputs=(vector,))
    still, moved = (
        synthesize(other, make_spec(shift=shift), seed=0).samples.tobytes() for shift in (0, 3)
    )
    assert still == moved
    pictures = [synthesize(problem, make_spec(shift=shift), seed=0).samples for shift in (0, 3)]
    assert pictures[0].tobytes() != pictures[1].tobytes()


def test_the_label_term_makes_the_teacher_see_the_class(problem, make_spec):
    spec = make_spec(
        samples=10,
        batch=10,
        iterations=60,
        learning_rate=0.5,
        batch_statistics=0.0,
        sample_statistics=0.0,
        decorrelation=0.0,
        lowpass=0.0,
        label=1.0,
    )

    def confidence(steps: int) -> float:
        found = synthesize(problem, dataclasses.replace(spec, iterations=steps), seed=0)
        logits = problem.teacher.module(torch.from_numpy(found.samples))[0]
        chosen = logits.softmax(1)[torch.arange(10), torch.arange(10) % 5]
        return float(chosen.mean())

    assert confidence(60) > 1.15 * confidence(1)


@pytest.mark.parametrize(
    "figures",
    [
        {"sample_statistics": 0.0},
        {"slack_quantile": 0.0},
        {"decorrelation": 0.0},
        {"label": 0.0},
        {"lowpass": 0.0},
        {"shift": 0},
        {"enhancement": 1.0},
    ],
    ids=lambda figures: next(iter(figures)),
)
def test_each_block_can_be_left_out_and_matters(problem, make_spec, figures):
    everything = make_spec(shift=2)
    full = synthesize(problem, everything, seed=0)
    found = synthesize(problem, dataclasses.replace(everything, **figures), seed=0)
    assert np.isfinite(found.samples).all()
    assert found.samples.tobytes() != full.samples.tobytes()


def test_samples_that_were_made_for_no_class_have_the_teachers_answers(problem, make_spec):
    found = synthesize(problem, make_spec(label=0.0), seed=0)
    answers = problem.teacher.module(torch.from_numpy(found.samples))[0].argmax(1)
    assert found.labels.tolist() == answers.tolist()


def test_a_network_that_is_no_classifier_gets_samples_without_labels(make_problem, make_spec):
    problem = make_problem(classes=None)
    for source in ("optimise", "leaves", "noise"):
        assert synthesize(problem, make_spec(source=source), seed=0).labels is None


@pytest.mark.parametrize("source", ["leaves", "noise"])
def test_plain_pictures_need_no_statistics_and_are_labelled_by_the_teacher(
    problem, make_spec, source
):
    bare = dataclasses.replace(problem, table=BNTable(entries=()))
    spec = make_spec(source=source, samples=10)
    found, again, other = (synthesize(bare, spec, seed=seed) for seed in (0, 0, 1))
    answers = problem.teacher.module(torch.from_numpy(found.samples))[0].argmax(1)
    assert len(found) == 12
    assert found.labels.tolist() == answers.tolist()
    assert found.samples.tobytes() == again.samples.tobytes()
    assert found.samples.tobytes() != other.samples.tobytes()
    assert len({sample.tobytes() for sample in found.samples}) == 12


def test_leaves_follow_the_optimised_samples_with_the_teachers_classes(problem, make_spec):
    alone = synthesize(problem, make_spec(), seed=0)
    joined = synthesize(problem, make_spec(leaves_per_sample=0.6), seed=0)
    extra = len(joined) - len(alone)
    assert extra == make_spec().batch * 2
    assert alone.parts == ()
    assert joined.parts == (("optimised samples", len(alone)), ("dead leaves", extra))
    assert joined.samples[: len(alone)].tobytes() == alone.samples.tobytes()
    assert not set(map(bytes, joined.samples[len(alone) :])) & set(map(bytes, alone.samples))
    with torch.no_grad():
        answers = problem.teacher.module(torch.from_numpy(joined.samples[len(alone) :]))[0].argmax(
            1
        )
    assert joined.labels[len(alone) :].tolist() == answers.tolist()


def test_noise_is_normal_in_the_models_unit(problem, make_spec):
    x = synthesize(problem, make_spec(source="noise", samples=64), seed=0).samples
    within = float(((x > -1) & (x < 1)).mean())
    assert within == pytest.approx(0.683, abs=0.02)


def test_without_statistics_there_are_no_samples(problem, make_spec):
    bare = dataclasses.replace(problem, table=BNTable(entries=()))
    with pytest.raises(CalibError, match="no BatchNormalization") as caught:
        synthesize(bare, make_spec(), seed=0)
    assert str(caught.value) == str(no_statistics())
    assert "leave --recipe out" in caught.value.mend


def test_an_estimate_without_a_table_moves_pixels_to_their_classes(problem, make_spec):
    bare = dataclasses.replace(problem, table=BNTable(entries=()))
    spec = make_spec(targets="leaves", start="leaves", iterations=30, decorrelation=0.0)
    found = synthesize(bare, spec, seed=0)
    assert set(found.history[0]) == {"step", "label", "loss"}
    assert found.history[-1]["label"] < found.history[0]["label"] - 0.1


def test_where_nothing_can_be_matched_the_leaves_stay_as_they_are(problem, make_spec, caplog):
    bare = dataclasses.replace(problem, table=BNTable(entries=()), classes=None)
    spec = make_spec(targets="leaves", start="leaves")
    found = synthesize(bare, spec, seed=0)
    plain = synthesize(bare, dataclasses.replace(spec, source="leaves"), seed=0)
    assert found.samples.tobytes() == plain.samples.tobytes()
    assert "samples are dead leaves that nothing moves" in caplog.text


def test_a_loss_that_is_no_longer_finite_is_told_at_once(problem, make_spec):
    steps = mock.Mock(spec=NoProgress)
    entry = dataclasses.replace(problem.table.entries[0], mean=(float("nan"),) * 4)
    broken = dataclasses.replace(problem, table=BNTable(entries=(entry,)))
    with pytest.raises(CalibError, match="no longer finite") as caught:
        synthesize(broken, make_spec(slack_quantile=0.0), seed=0, progress=steps)
    assert "synthesis.learning_rate" in caught.value.mend
    steps.advance.assert_not_called()


def test_pixels_that_the_last_step_ruins_are_told(problem, make_spec, monkeypatch):
    def ruin(self, *args: object) -> None:
        for group in self.param_groups:
            for pixels in group["params"]:
                pixels.data.fill_(float("nan"))

    monkeypatch.setattr(torch.optim.Adam, "step", ruin)
    with pytest.raises(CalibError, match="no longer finite"):
        synthesize(problem, make_spec(iterations=1, lowpass=0.0), seed=0)


def test_the_teacher_is_left_as_it_was(problem, make_spec):
    before = {name: value.clone() for name, value in problem.teacher.module.state_dict().items()}
    synthesize(problem, make_spec(), seed=0)
    after = problem.teacher.module.state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.items())
    assert all(parameter.grad is None for parameter in problem.teacher.module.parameters())


def test_provenance_says_how_the_set_was_made(problem, make_spec):
    spec = make_spec()
    found = synthesize(problem, spec, seed=7).provenance
    assert found["seed"] == 7
    assert found["synthesis"] == spec.to_dict()
    assert found["input"] == problem.inputs[0].to_dict()
    assert found["torch"] == torch.__version__
    assert all(np.isfinite(value) for value in found["terms"].values())


@pytest.mark.parametrize("layout", [Layout.NCHW, Layout.NHWC], ids=str)
def test_first_noise_has_unit_variance_and_varies_slowly(make_problem, make_spec, layout):
    own = make_problem(layout).inputs[0]
    spec = make_spec(start="noise", batch=16)
    pixels = initial_pixels(spec, own, torch.Generator().manual_seed(0))
    assert pixels.shape == (16, *own.shape)
    assert float(pixels.std()) == pytest.approx(1, rel=1e-5)
    columns = 2 if layout is Layout.NHWC else 3
    neighbours = (pixels - pixels.roll(1, columns)).square().mean()
    assert float(neighbours) < 1  # 2 for white noise


def test_first_leaves_are_the_same_pictures_in_every_layout(make_problem, make_spec):
    spec = make_spec(start="leaves", batch=3)
    first, last = (
        initial_pixels(spec, make_problem(layout).inputs[0], torch.Generator().manual_seed(0))
        for layout in (Layout.NCHW, Layout.NHWC)
    )
    assert first.shape == (3, 3, 8, 8)
    assert torch.equal(first, last.permute(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(2, 64), (5, 8, 8)], ids=["signal", "feature-maps"])
def test_leaves_of_what_is_no_picture_vary_slowly(make_problem, shape):
    own = dataclasses.replace(make_problem().inputs[0], layout=Layout.OTHER, shape=shape)
    x = leaves(own, 64, torch.Generator().manual_seed(0), spread=0.25)
    assert x.shape == (64, *shape)
    assert float(x.std()) == pytest.approx(1, abs=0.25)
    neighbours = x.diff(dim=-1).square().mean()
    assert float(neighbours) < 1  # 2 for white noise


def test_leaves_of_a_vector_are_noise(make_problem, make_spec):
    own = dataclasses.replace(make_problem().inputs[0], layout=Layout.OTHER, shape=(7,))
    x, noise = (
        initial_pixels(make_spec(start=start, batch=500), own, torch.Generator().manual_seed(0))
        for start in ("leaves", "noise")
    )
    assert x.shape == noise.shape == (500, 7)
    assert float(x.std()) == pytest.approx(1, abs=0.05)


def test_what_is_no_picture_is_not_filtered():
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    assert channels_first_filter(x, 0.5, Layout.OTHER) is x


def test_the_legal_box_broadcasts_over_the_channels_of_any_layout(make_problem):
    for layout, shape in ((Layout.NCHW, (1, 3, 1, 1)), (Layout.NHWC, (1, 1, 1, 3))):
        low, high = legal_box(make_problem(layout).inputs[0])
        assert low.shape == high.shape == shape
        assert low.flatten().tolist() == [-2.0, -1.5, -1.0]


@pytest.mark.parametrize(
    "changes", [{}, {"centres": "pooled", "centre_iterations": 2, "margin": 1.0}]
)
def test_bfloat16_ends_as_near_to_the_statistics_as_float32_and_is_the_same_every_time(
    problem, make_spec, changes
):
    spec = make_spec(iterations=20, **changes)
    half = dataclasses.replace(problem, compute=Compute(half=True))
    first, second = (synthesize(half, spec, seed=0) for _ in range(2))
    assert first.samples.tobytes() == second.samples.tobytes()
    plain = synthesize(problem, spec, seed=0)
    assert first.samples.tobytes() != plain.samples.tobytes()
    wanted = statistics_loss(problem, plain.samples)
    assert statistics_loss(problem, first.samples) == pytest.approx(wanted, rel=0.05)


def test_classes_are_spread_where_they_are_more_than_samples(make_problem, make_spec):
    many = dataclasses.replace(make_problem(), classes=1000)
    spec = make_spec(samples=8, batch=4)
    made = torch.cat([_labels(many, spec, index) for index in range(2)])
    assert made.tolist() == [0, 125, 250, 375, 500, 625, 750, 875]


def test_networks_with_several_rows_a_sample_get_samples(parse_graph, make_problem, make_spec):
    """Two frames a sample lie on the batch's axis before the second BatchNormalization, and along time behind."""
    model = parse_graph(
        """g (float[N,3,8,8] x) => (float[N,5] y)
        <float[4,3,3,3] w0, float[4] g0, float[4] b0, float[4] m0, float[4] v0, int64[3] s = {-1,4,16},
         float[4] g1, float[4] b1, float[4] m1, float[4] v1, float[5,4] w2, int64[4] two = {-1,3,4,8}>
        { h = Reshape(x, two) c = Conv(h, w0) a = BatchNormalization(c, g0, b0, m0, v0)
          l = AveragePool<kernel_shape=[1,3], strides=[1,1]>(a) r = Reshape(l, s)
          n = BatchNormalization(r, g1, b1, m1, v1)
          p = GlobalAveragePool(n) f = Flatten(p) y = Gemm<transB=1>(f, w2) }""",
        v0=np.ones(4, np.float32),
        v1=np.ones(4, np.float32),
    )
    own = dataclasses.replace(
        make_problem(), teacher=import_teacher(model), table=read_bn_table(model)
    )
    for spec in (make_spec(), make_spec(centres="class", centre_iterations=2)):
        made = synthesize(own, spec, seed=0)
        assert len(made) == 8
        assert np.isfinite(made.samples).all()


def test_pictures_of_one_pixel_are_finite(make_problem, make_spec):
    problem = make_problem()
    spec = dataclasses.replace(problem.inputs[0], shape=(3, 1, 1))
    made = leaves(spec, 4, torch.Generator().manual_seed(0), spread=0.1)
    assert made.isfinite().all()


def test_samples_that_the_last_step_ruins_are_told(problem, make_spec):
    spec = make_spec(loop="generator", generator_rate=1e30, iterations=1)
    with pytest.raises(CalibError, match="no longer finite") as caught:
        synthesize(problem, spec, seed=0)
    assert "synthesis.generator_rate" in caught.value.mend
