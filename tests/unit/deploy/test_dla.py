from __future__ import annotations

import dataclasses
import subprocess

import pytest

from deploy.calibration_cache import CACHE, read_cache
from deploy.cards import load_card
from deploy.dla import DLA_MODEL, DLA_SCRIPT, dla_files
from edgeq.core.errors import TargetError


@pytest.mark.parametrize(
    "target", ["jetson-orin", "jetson-orin-nx", "jetson-xavier", "jetson-orin@jetpack5"]
)
def test_the_files_are_for_trtexec_with_dla_of_that_release(target, teacher, input_spec, tmp_path):  # fmt: skip
    files = dla_files(teacher, {"x": 0.5}, card=load_card(target), inputs=[input_spec])
    assert set(files) == {DLA_MODEL, CACHE, DLA_SCRIPT}
    assert read_cache(files[CACHE])[1] == {"x": 0.5}
    script = files[DLA_SCRIPT].decode()
    build = next(line for line in script.splitlines() if line.startswith('"$trtexec" --onnx'))
    for word in ("--useDLACore=0", "--int8", "--fp16", "--allowGPUFallback", f"--calib={CACHE}"):
        assert f" {word}" in build
    assert "--maxShapes=x:1x3x8x8" in build
    (tmp_path / "s.sh").write_bytes(files[DLA_SCRIPT])
    assert subprocess.run(["sh", "-n", tmp_path / "s.sh"], check=False).returncode == 0


def test_there_is_no_script_for_trtexec_where_it_cannot_read_an_input(teacher, input_spec):
    inputs = [dataclasses.replace(input_spec, name="a,b")]
    files = dla_files(teacher, {"a,b": 0.5}, card=load_card("jetson-orin"), inputs=inputs)
    assert set(files) == {DLA_MODEL, CACHE}


def test_a_target_without_dla_is_refused_with_the_nearest_that_has_it(teacher, input_spec):
    with pytest.raises(TargetError, match="has no DLA") as caught:
        dla_files(teacher, {}, card=load_card("rtx-4090"), inputs=[input_spec])
    assert "jetson-orin" in caught.value.mend
