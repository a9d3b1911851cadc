from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeq.core.errors import ModelError


def test_the_folder_of_the_set_is_printed(edgeq: Any, pipeline: Any) -> None:
    pipeline.answer = lambda options: options.out / f"{options.recipe}-{options.seed}"
    done = edgeq("synth", "m.onnx", "--seed", "3")
    assert done.code == 0
    assert done.out == f"sample set: {Path('m.samples/edgeq-3')}\n"


def test_a_model_without_statistics_ends_with_3(edgeq: Any, pipeline: Any) -> None:
    def answer(options: Any) -> Path:
        raise ModelError("no BatchNormalization", why="nothing to match", mend="export it anew")

    pipeline.answer = answer
    assert edgeq("synth", "m.onnx").code == 3
