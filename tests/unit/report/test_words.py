from __future__ import annotations

import dataclasses

from edgeq.report.words import (
    NOT_MEASURED,
    Latency,
    say_asked,
    say_decided,
    say_fusions,
    say_latency,
    say_samples,
    say_verdict,
)

CPU = Latency(backend="ONNX Runtime, CPU", before_ms=2.0, after_ms=1.0, ratio=0.5)


def test_what_was_asked_names_model_widths_method_and_seed(results, card):
    assert say_asked(results, card) == [
        f"Quantize net.onnx without its training data, for {card.title}.",
        "Weights get 4 bits and activations 8 bits (w4a8).",
        "The first and the last layer, and what the first one makes, have the same widths.",
        "The method is the recipe 'edgeq' at the effort 'quick': a method.",
        "Every random choice follows from the seed 3.",
    ]


def test_what_was_decided_counts_tensors_by_grid(results, plan):
    assert say_decided(results, plan)[-1] == (
        "Placement: 2 activations on the grid int8 -128..127 per tensor; "
        "1 weight tensor on the grid int4 -7..7 per channel 0; 1 tensors that were considered stay in float."
    )


def test_what_is_known_of_the_training_data_is_told_with_its_trust(results, plan):
    told = (
        "Statistics of the training data: from the file's 1 BatchNormalization nodes; trust: high."
    )
    assert told in say_decided(results, plan)


def test_what_was_not_measured_says_so(results):
    told = dict(say_verdict(results))
    assert told["Top-1 before"] == told["Top-1 after"] == NOT_MEASURED
    assert told["Same top class as the teacher"] == "93.75 %"
    results["agreement"]["top1_match_ratio"] = None
    assert dict(say_verdict(results))["Same top class as the teacher"] == NOT_MEASURED


PARTS = [
    {"kind": "optimised samples", "samples": 4, "top1_match_ratio": 1.0},
    {"kind": "dead leaves", "samples": 12, "top1_match_ratio": 0.5},
]


def test_the_match_of_each_kind_of_samples_has_a_row_of_its_own(results):
    results["agreement"]["parts"] = PARTS
    told = dict(say_verdict(results))
    assert told["Same top class as the teacher, optimised samples"] == "100.00 %"
    assert told["Same top class as the teacher, dead leaves"] == "50.00 %"
    assert "Same top class as the teacher" not in told
    results["agreement"]["parts"] = []  # of one kind
    assert dict(say_verdict(results))["Same top class as the teacher"] == "93.75 %"


def test_the_samples_that_the_agreement_is_measured_on_are_named(results):
    assert say_samples(results) == "The agreement is measured on 16 synthetic samples."
    results["agreement"]["parts"] = PARTS
    results["build"]["samples"] = "5" * 64
    told = "measured on 16 given samples: 4 optimised samples, 12 dead leaves. Dead leaves show no"
    assert told in say_samples(results)


def test_accuracy_is_told_before_and_after(results):
    results["evaluation"] = {"float": {"top1_pct": 92.5}, "quantized": {"top1_pct": 91.25}}
    told = dict(say_verdict(results))
    assert (told["Top-1 before"], told["Top-1 after"]) == ("92.50 %", "91.25 %")


def test_a_latency_of_onnx_runtime_never_stands_for_the_devices():
    assert say_latency("tensorrt", CPU) == [
        ("TensorRT on the device", NOT_MEASURED),
        ("ONNX Runtime, CPU (median)", "2 ms, now 1 ms (ratio 0.50)"),
    ]


def test_a_missing_latency_is_missing_on_every_target():
    assert say_latency("tensorrt", None) == [("TensorRT on the device", NOT_MEASURED)]
    assert say_latency("onnxruntime", None) == [("ONNX Runtime on the CPU", NOT_MEASURED)]


def test_the_latency_of_a_cpu_target_is_its_own():
    assert [name for name, _ in say_latency("onnxruntime", CPU)] == ["ONNX Runtime, CPU (median)"]


def test_an_engine_that_was_timed_is_the_latency_on_the_device():
    engine = dataclasses.replace(CPU, backend="TensorRT 10.3.0, GPU compute time")
    told = [("TensorRT 10.3.0, GPU compute time (median)", "2 ms, now 1 ms (ratio 0.50)")]
    assert say_latency("tensorrt", engine) == told


def test_a_float_latency_that_nobody_measured_is_missing():
    board = Latency(backend="TensorRT 10.3.0 on Orin", before_ms=None, after_ms=0.5, ratio=None)
    assert say_latency("tensorrt", board) == [
        ("TensorRT 10.3.0 on Orin (median)", "0.5 ms"),
        ("FP32 beside it", NOT_MEASURED),
    ]


def test_integer_kernels_that_err_more_than_quantization_are_warned_of(results, fusions):
    assert say_fusions(results) == []
    assert say_fusions({**results, "fusions": fusions}) == [fusions["summary"]]
    coarse = {**fusions, "sqnr_db": {"y": 20.0}}  # the output has 21.5 dB
    assert "x64quantprecision" in say_fusions({**results, "fusions": coarse})[-1]
