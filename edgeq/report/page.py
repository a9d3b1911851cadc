"""`report.html`: one page that holds all it shows, and asks for nothing from a network.

`render_build` is the page of one build, `render_builds` the page that puts several side by side. Names in a model are
not ours: everything is escaped, and the page's content policy runs no script but the one that edgeq put into it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edgeq.core.plan import QuantPlan
from edgeq.core.specs import TargetCard
from edgeq.report import curves, histograms, words
from edgeq.report.builds import BuildRow, Measured
from edgeq.report.curves import Curve, draw_curve
from edgeq.report.histograms import Histogram
from edgeq.report.layers import gather_layers
from edgeq.report.pictures import SamplePictures

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One figure of the build.

    Attributes:
        name: as it is typed.
        value: in use.
        origin: "asked", "equals the default" or where else it comes from.
    """

    name: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command that a reader can copy, and what it does."""

    text: str
    purpose: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPage:
    """What the page of one build tells.

    Attributes:
        results: the content of results.json.
        card: the target.
        plan: the placement.
        histograms: of weights and activations, by tensor name.
        macs: multiply-accumulates, by layer.
        synthesis: the losses of the sample set's making, one entry an iteration; empty where nothing was optimised.
        history: the training's losses, one entry a step.
        pictures: of the sample set; None where it has none.
        measured: what was timed.
        settings: every figure in use.
        reproduce: the command that makes this build again.
        onward: the commands that go on from it.
    """

    results: Mapping[str, Any]
    card: TargetCard
    plan: QuantPlan
    histograms: Mapping[str, Histogram]
    macs: Mapping[str, int]
    synthesis: Sequence[Mapping[str, float]]
    history: Sequence[Mapping[str, float]]
    pictures: SamplePictures | None
    measured: Measured
    settings: Sequence[Setting]
    reproduce: Command
    onward: Sequence[Command]


def render_build(page: BuildPage) -> bytes:
    """Return the page of one build, UTF-8; equal values give equal bytes."""
    results = page.results
    return _render(
        "build.html.j2",
        page=page,
        results=results,
        asked=words.say_asked(results, page.card),
        decided=words.say_decided(results, page.plan),
        verdict=words.say_verdict(results),
        measured_on=words.say_samples(results),
        latency=words.say_latency(page.card.runtime, page.measured.latency),
        layers=gather_layers(page.plan, results["agreement"]["layers"], page.histograms, page.macs),
        regions=words.say_regions(results["regions"]),
        fusions=words.say_fusions(results),
        synthesis=_draw_losses(page.synthesis),
        losses=_draw_losses(page.history),
    )


def render_builds(rows: Sequence[BuildRow]) -> bytes:
    """Return the page that compares builds; `rows` as `builds.read_build` gives them."""
    return _render("builds.html.j2", rows=rows)


def _draw_losses(history: Sequence[Mapping[str, float]]) -> list[Curve]:
    """Return a curve for every loss term, the whole loss first."""
    names = dict.fromkeys(name for entry in history for name in entry if name != "step")
    ordered = sorted(names, key=lambda name: name != "loss")
    return [draw_curve(name, [entry.get(name, 0.0) for entry in history]) for name in ordered]


def _render(template: str, **values: Any) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_TEMPLATES / "sort.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = environment.get_template(template).render(
        **values,
        style=(_TEMPLATES / "style.css").read_text("utf-8"),
        script=script,
        script_digest=digest,
        curve_box=(curves.WIDTH, curves.HEIGHT),
        histogram_box=(histograms.WIDTH, histograms.HEIGHT),
    )
    # Names of files need not be UTF-8; what is not stands there with its code, as on the console.
    return text.encode("utf-8", "backslashreplace")
