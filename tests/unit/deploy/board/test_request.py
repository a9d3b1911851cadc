from __future__ import annotations

from pathlib import Path

import pytest

from deploy.board.request import BuildRequest, HardwareLevel, InputShapes, read_shapes

PLAIN = BuildRequest(model=Path("m.onnx"), names=(), meant=(), is_weak=True)


@pytest.mark.parametrize(
    ("request_", "is_portable"),
    [
        (PLAIN, False),
        (PLAIN._replace(is_version_compatible=True), True),
        (PLAIN._replace(hardware=HardwareLevel.AMPERE_PLUS), True),
    ],
)
def test_an_engine_for_elsewhere_is_portable(request_: BuildRequest, is_portable: bool) -> None:
    assert request_.is_portable is is_portable


def test_shapes_come_out_of_json() -> None:
    item = {"input": "x", "min": [1, 3], "opt": [2, 3], "max": [4, 3]}
    assert read_shapes([item]) == (InputShapes("x", (1, 3), (2, 3), (4, 3)),)
