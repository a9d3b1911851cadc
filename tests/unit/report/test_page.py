from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser

import pytest

from edgeq.report.builds import BuildRow, Measured
from edgeq.report.page import Command, render_build, render_builds

EVIL = "<script>alert('x')</script>\"' onload=alert(1) {{ 7 * 7 }}"
VOID = {"meta", "link", "br", "img"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that every tag is closed."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"script", "style"}:
            self.text.append(data.strip())


@pytest.fixture
def row() -> BuildRow:
    return BuildRow(
        name="a", model="net.onnx", target="board", bits="w4a8", recipe="edgeq", effort="quick",
        top1_before_pct=92.5, top1_after_pct=None, match_pct=99.5, sqnr_db=20.0,
        size_before_kb=4.0, size_kb=1.0, latency_ms=None, float_latency_ms=None, backend=None,
    )  # fmt: skip


def test_the_page_is_well_formed_and_holds_every_section(page):
    reader = Reader(render_build(page))
    assert reader.open == []
    for title in ("In short", "What was asked", "What was decided", "Synthetic samples", "Layers",
                  "Training", "Settings", "Commands"):  # fmt: skip
        assert title in reader.text
    for told in ("opset 12 was raised to 13", "edgeq build net.onnx --bits w4a8", "not measured"):
        assert told in reader.text


def test_the_page_asks_for_nothing_outside_itself(page):
    reader = Reader(render_build(page))
    links = [v for _, attrs in reader.tags for k, v in attrs.items() if k in {"src", "href"}]
    assert [link for link in links if not str(link).startswith("data:")] == []
    assert "http://" not in render_build(page).decode()
    assert "https://" not in render_build(page).decode()


def test_the_policy_allows_the_one_script_of_the_page(page):
    text = render_build(page).decode()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for _, a in Reader(text.encode()).tags if "http-equiv" in a)
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")


def test_names_of_a_model_are_text_and_never_markup(page, plan):
    first = dataclasses.replace(plan.decisions[0], tensor=EVIL, reason=EVIL)
    results = {**page.results, "model": EVIL, "findings": [EVIL]}
    evil = dataclasses.replace(
        page,
        results=results,
        plan=dataclasses.replace(plan, decisions=(first, *plan.decisions[1:])),
        histograms={EVIL: page.histograms["x"]},
        reproduce=Command(text=EVIL, purpose=EVIL),
    )
    reader = Reader(render_build(evil))
    assert [tag for tag, _ in reader.tags].count("script") == 1
    assert not [attrs for _, attrs in reader.tags if "onload" in attrs]
    assert reader.text.count(EVIL) >= 5
    labels = [attrs["aria-label"] for _, attrs in reader.tags if "aria-label" in attrs]
    assert f"values of {EVIL} on their grid" in labels


def test_a_name_that_is_not_utf_8_stands_there_with_its_code(page):
    results = {**page.results, "model": "net\udcff.onnx"}
    assert b"net\\udcff.onnx" in render_build(dataclasses.replace(page, results=results))


def test_equal_values_give_equal_bytes(page):
    assert render_build(page) == render_build(dataclasses.replace(page))


def test_the_whole_loss_is_the_first_curve(page):
    text = render_build(page).decode()
    names = re.findall(r"<figcaption>(\w+)</figcaption>", text)
    assert names == [
        "loss",
        "statistics",
        "loss",
        "features",
    ]  # of the synthesis, then of the training


def test_samples_that_were_not_optimised_have_no_losses(page):
    reader = Reader(render_build(dataclasses.replace(page, synthesis=[])))
    assert "No sample was optimised, so there are no losses of a synthesis." in reader.text


def test_the_predicted_regions_are_told_and_summed_up(page):
    reader = Reader(render_build(page))
    summary = (
        "2 kernels; 1 of 1 convolutions and products in INT8; 1 conversion between INT8 and float."
    )
    assert {"Conv+Relu", "c, r", "INT8 in and out", summary} <= set(reader.text)


def test_a_target_without_tensorrt_has_no_predicted_regions(page):
    bare = dataclasses.replace(page, results={**page.results, "regions": []})
    text = " ".join(Reader(render_build(bare)).text)
    assert "None: the target does not run TensorRT" in text


def test_what_onnx_runtime_computes_on_integers_is_told_where_it_was_read_back(page, fusions):
    results = {**page.results, "regions": [], "fusions": fusions}
    reader = Reader(render_build(dataclasses.replace(page, results=results)))
    assert {"Operators on integers", fusions["summary"], "QLinearConv", "Softmax 's'"} <= set(
        reader.text
    )
    assert "Predicted fused regions" not in reader.text


def test_a_build_without_training_says_so(page):
    assert (
        "No step was trained." in Reader(render_build(dataclasses.replace(page, history=[]))).text
    )


def test_builds_stand_side_by_side_and_gaps_are_named(row):
    evil = dataclasses.replace(row, name=EVIL, latency_ms=1.5, float_latency_ms=3.0, backend="CPU")
    reader = Reader(render_builds([row, evil]))
    assert reader.open == []
    assert [tag for tag, _ in reader.tags].count("script") == 1
    assert reader.text.count("not measured") == 4
    assert {"2 builds side by side", EVIL, "1.5\xa0ms", "CPU"} <= set(reader.text)


def test_a_measurement_that_was_left_out_is_told_with_its_reason(page, row):
    reason = f"latency.json is left out: it timed '{EVIL}'"
    told = dataclasses.replace(page, measured=Measured(latency=None, left_out=(reason,)))
    assert reason in Reader(render_build(told)).text
    both = render_builds([row, dataclasses.replace(row, name="b", left_out=(reason,))])
    assert f"b: {reason}" in Reader(both).text
