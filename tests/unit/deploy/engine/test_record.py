from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.board.facts import read_l4t
from deploy.engine.record import read_build
from edgeq.core.files import digest_file


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64", "36.4.3"),
        ("# R32 (release), REVISION: 7.1, GCID: 29818004", "32.7.1"),
        ("", None),
        ("something else altogether in five words", None),
    ],
)
def test_the_release_of_a_jetson_is_read(tmp_path: Path, text: str, release: str | None) -> None:
    path = tmp_path / "nv_tegra_release"
    path.write_text(text)
    assert read_l4t(path) == release


def test_another_machine_has_no_such_release(tmp_path: Path) -> None:
    assert read_l4t(tmp_path / "absent") is None


def write_manifest(model: Path, digest: str) -> None:
    stages = {"insert": {"files": {model.name: digest}}}
    manifest = {"schema": 1, "build": {"bits": "w8a8"}, "stages": stages}
    model.with_name("manifest.json").write_text(json.dumps(manifest))


def test_the_build_that_made_the_model_is_kept(model: Path) -> None:
    write_manifest(model, digest_file(model))
    assert read_build(model) == {"bits": "w8a8"}


def test_a_manifest_of_another_model_is_not_believed(model: Path) -> None:
    write_manifest(model, "0" * 64)
    assert read_build(model) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"stages": {"a": 1}, "build": 2}'])
def test_a_manifest_of_another_program_is_passed_over(model: Path, text: str) -> None:
    model.with_name("manifest.json").write_text(text)
    assert read_build(model) is None
