"""The last stage of a build: `report.html`, made from the files of the others and from what was asked."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeq.core.files import read_json, write_bytes
from edgeq.core.plan import Role
from edgeq.core.progress import Progress
from edgeq.core.quantized import QuantizedValues
from edgeq.core.recipes import DEFAULT_RECIPE
from edgeq.core.samples import SampleSet
from edgeq.core.specs import GraphFlavour, Layout
from edgeq.graph.macs import count_macs
from edgeq.pipeline.job import Job
from edgeq.pipeline.options import BuildOptions
from edgeq.report.builds import LATENCY, read_latency
from edgeq.report.histograms import CodeCounter, Histogram
from edgeq.report.page import BuildPage, Command, Setting, render_build
from edgeq.report.pictures import SamplePictures, picture_samples

# How many samples the activation histograms are counted on; as many as the codes are compared on.
HISTOGRAM_SAMPLES = 32

# What the command line takes where nothing is typed, besides --out; a test compares them with it.
_DEFAULTS = {
    "--bits": "w8a8",
    "--first-last": "int8",
    "--effort": "standard",
    "--seed": "0",
    "--recipe": DEFAULT_RECIPE,
    "--device": "auto",
}

# Stand for the folders of report and model where the one is not in the other: no page names a path of a machine.
_THIS_FOLDER = "THIS_FOLDER"
_MODEL_FOLDER = "MODEL_FOLDER"


def write_report(job: Job, folder: Path, progress: Progress) -> Sequence[str]:
    """Write `report.html` from the files of the earlier stages."""
    from edgeq.quant.storage import load_values

    progress.start("report", 1, "page")
    samples = SampleSet.load(folder / "samples")
    page = BuildPage(
        results=read_json(folder / "results.json"),
        card=job.card,
        plan=job.plan,
        histograms=_histograms(job, load_values(folder / "trained.safetensors"), samples),
        macs=count_macs(
            job.folded, {item.name: (item.batch or 1, *item.shape) for item in job.specs}
        ),
        synthesis=samples.history,
        history=read_json(folder / "history.json"),
        pictures=_pictures(job, samples, folder),
        measured=read_latency(folder, job.options.model.name),
        settings=list_settings(job),
        reproduce=_reproduce(job.options),
        onward=list(_onward(job)),
    )
    data = render_build(page)
    write_bytes(folder / "report.html", data)
    progress.advance()
    progress.finish(f"report.html, {len(data) / 1e3:.0f} kB")
    return ["report.html"]


def report_inputs(job: Job, folder: Path) -> dict[str, Any]:
    """Return what the report depends on besides the build and its files: names as typed, and a measurement."""
    return {
        "command": command_words(job.options),
        "measured": asdict(read_latency(folder, job.options.model.name)),
    }


def command_words(options: BuildOptions) -> list[str]:
    """Return the words of the command that makes this build again, in the folder of the model.

    Files have their names alone, and no folder of a machine.
    """
    words = ["edgeq", "build", options.model.name, "--target", options.target]
    for name, value in _common(options).items():
        words += [name, value]
    words += _placement_words(options)
    optional = {
        "--teacher": options.teacher_weights and options.teacher_weights.name,
        "--samples": options.samples_path and options.samples_path.name,
        "--eval": options.eval_path and options.eval_path.name,
    }
    for name, text in optional.items():
        words += [name, text] if text else []
    for key, figure in options.settings.items():
        words += ["--set", f"{key}={figure}"]
    return words


def _reproduce(options: BuildOptions) -> Command:
    where = "This build again, in the folder of the model"
    note = f"; {_THIS_FOLDER} is the one of this report" if _place(options) is None else ""
    return Command(text=shlex.join(command_words(options)), purpose=f"{where}{note}:")


def _place(options: BuildOptions) -> Path | None:
    """Return the build's folder as seen from the model's, or None where it lies elsewhere."""
    beside, out = options.model.parent.resolve(), options.out.resolve()
    return out.relative_to(beside) if out.is_relative_to(beside) else None


def _placement_words(options: BuildOptions) -> list[str]:
    """Return the words that describe the inputs, and the other ones that placement depends on."""
    lists = {"--mean": options.mean, "--std": options.std, "--bounds": options.bounds}
    # Joined by "=", because a value may begin with a minus.
    words = [f"{name}={','.join(map(repr, v))}" for name, v in lists.items() if v]
    words += ["--preset", options.preset] if options.preset else []
    words += ["--flavour", options.flavour.value] if options.flavour else []
    words += ["--dla"] if options.for_dla else []
    return [*words, *_shape_words(options)]


def _shape_words(options: BuildOptions) -> list[str]:
    """Return the shapes, as edgeq and tools/bench_latency.py take them."""
    shapes = [f"{name}:{'x'.join(map(str, sizes))}" for name, sizes in options.shapes.items()]
    return [word for shape in shapes for word in ("--shape", shape)]


def list_settings(job: Job) -> list[Setting]:
    """Return every figure in use, and where it comes from; whether a default was typed is not known here."""
    options, recipe = job.options, job.recipe
    asked = [Setting(name="--target", value=options.target, origin="asked")]
    default_out = Path(f"{options.model.stem}.{options.target}")
    for name, value in _common(options).items():
        same = options.out == default_out if name == "--out" else value == _DEFAULTS[name]
        origin = "equals the default" if same else "asked"
        asked.append(Setting(name=name, value=value, origin=origin))
    flavour = "asked" if options.flavour else "from the target and the file"
    asked.append(Setting(name="graph", value=job.card.flavour.words, origin=flavour))
    asked.append(Setting(name="preprocessing", value=job.preprocessing, origin="see the value"))
    blocks = recipe.tables()
    if job.given is not None:
        del blocks["synthesis"]
    figures = [
        Setting(
            name=f"{block}.{key}",
            value=str(value),
            origin="--set"
            if f"{block}.{key}" in options.settings
            else f"recipe '{recipe.name}', effort {recipe.effort.value}",
        )
        for block, values in blocks.items()
        for key, value in values.items()
    ]
    return [*asked, *figures]


def _common(options: BuildOptions) -> dict[str, str]:
    """Return the options that always have a value, as they are typed in the folder of the model."""
    place = _place(options)
    return {
        "--out": _THIS_FOLDER if place is None else place.as_posix(),
        "--bits": str(options.bits),
        "--first-last": "same" if options.bits.first_last_same else "int8",
        "--effort": options.effort.value,
        "--seed": str(options.seed),
        "--recipe": options.recipe,
        "--device": options.device,
    }


def _onward(job: Job) -> Iterator[Command]:
    options = job.options
    place = _place(options)
    up = f"{_MODEL_FOLDER}/" if place is None else "../" * len(place.parts)
    model = shlex.quote(f"{up}{options.model.name}")
    common = _common(options)
    named = [f"{name} {common[name]}" for name in ("--bits", "--first-last")]
    placed = " ".join(
        ["--target", shlex.quote(options.target), *named, shlex.join(_placement_words(options))]
    ).rstrip()
    if job.card.runtime == "tensorrt":
        yield Command(
            text="edgeq deploy USER@BOARD bundle",
            purpose="Build, compare and time the engine on the board, over SSH. Not verified on hardware.",
        )
    else:
        yield Command(text="sh bundle/run.sh", purpose="Check the model where it is to run.")
    if options.eval_path is None:
        yield Command(
            text=f"{shlex.join(command_words(options))} --eval PICTURES",
            purpose="In the folder of the model again: measure top-1 on labelled pictures, one folder a class.",
        )
    yield Command(
        text=f"edgeq compare {model} model.qdq.onnx --samples samples",
        purpose="Measure the agreement again, or on a sample set of yours.",
    )
    if job.card.flavour is not GraphFlavour.FP16_TYPED:  # which ONNX Runtime's optimiser may refuse
        timed = " ".join([model, "model.qdq.onnx", *map(shlex.quote, _shape_words(options))])
        yield Command(
            text=f"python EDGEQ/tools/bench_latency.py {timed} --json > {LATENCY}",
            purpose="Time both models in ONNX Runtime (no TensorRT latency), EDGEQ being your clone of edgeq; "
            "the first command of this section then shows it here.",
        )
    yield Command(
        text=f"edgeq explain {model} {placed}", purpose="See why each tensor has its grid."
    )
    yield Command(text="edgeq report . ../OTHER", purpose="Put this build beside another one.")


def _histograms(job: Job, values: QuantizedValues, samples: SampleSet) -> dict[str, Histogram]:
    """Return how the weights that ship, and the float network's activations, lie on their grids."""
    counters = {
        item.tensor: CodeCounter(item.grid, values.scales[item.tensor])
        for item in job.plan.quantized()
        if item.grid is not None
    }
    for name, codes in values.codes.items():
        counters[name].add_codes(codes)
    names = [item.tensor for item in job.plan.quantized(Role.ACTIVATION)]
    for tensors in _activations(job, samples, names):
        for name in names:
            counters[name].add(tensors[name])
    return {name: counter.draw() for name, counter in counters.items()}


def _activations(job: Job, samples: SampleSet, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the values of the tensors `names` in the float network, batch by batch."""
    from deploy.onnxrt import Session, iterate_batches

    inner = [name for name in names if name not in samples.feed(slice(0))]
    session = Session(job.folded, outputs=inner)
    first = session.run(samples.feed(slice(1)))
    size = sum(y.nbytes for y in first.values())
    for pick in iterate_batches(min(len(samples), HISTOGRAM_SAMPLES), bytes_per_sample=size):
        feed = samples.feed(pick)
        yield feed | session.run(feed)


def _pictures(job: Job, samples: SampleSet, folder: Path) -> SamplePictures | None:
    preview = folder / "samples" / "preview.png"
    pictures = [spec for spec in job.specs if spec.layout is not Layout.OTHER]
    if not pictures:
        return None
    return picture_samples(samples.feed()[pictures[0].name], pictures[0], preview)
