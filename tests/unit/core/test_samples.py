"""The sample set comes back as it was written, or not at all."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest

from edgeq.core.errors import CalibError, EdgeqBug, InputError
from edgeq.core.files import digest_file
from edgeq.core.samples import Part, SampleSet


def make_set(*, count: int = 6, labels: bool = True) -> SampleSet:
    rng = np.random.default_rng(0)
    return SampleSet(
        input_name="x",
        samples=rng.standard_normal((count, 3, 4, 4)).astype(np.float32),
        labels=np.arange(count, dtype=np.int64) if labels else None,
        provenance={"seed": 3, "terms": {"statistics": 0.5}},
    )


@pytest.fixture
def folder(tmp_path):
    make_set().save(tmp_path)
    return tmp_path


def make_pair() -> SampleSet:
    pixels = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4)
    others = {"a": pixels, "b/c": np.ones((6, 2), np.float16)}
    return dataclasses.replace(make_set(), others=others)


def test_a_set_of_several_inputs_comes_back_with_all_of_them(tmp_path):
    made = make_pair()
    names = made.save(tmp_path)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    found = SampleSet.load(tmp_path)
    assert list(found.feed()) == ["x", "a", "b/c"]
    for name, wanted in made.feed(slice(2, 4)).items():
        picked = found.feed(np.array([2, 3]))[name]
        assert picked.dtype == wanted.dtype
        np.testing.assert_array_equal(picked, wanted)


PARTS = (Part("optimised samples", 2), Part("dead leaves", 4))


def test_kinds_of_samples_come_back_in_their_order(tmp_path):
    dataclasses.replace(make_set(), parts=PARTS).save(tmp_path)
    assert SampleSet.load(tmp_path).parts == PARTS


def test_a_set_from_before_there_were_kinds_has_none(folder):
    assert "parts" not in json.loads((folder / "samples.json").read_text())
    assert SampleSet.load(folder).parts == ()


@pytest.mark.parametrize(
    "parts",
    [
        [{"kind": "a", "samples": 5}],
        [{"kind": "a"}],
        ["a"],
        3,
        [{"kind": "a", "samples": None}],
        [{"kind": "a", "samples": -2}, {"kind": "b", "samples": 8}],
    ],
    ids=["too-few", "no-count", "a-word", "a-number", "none", "negative"],
)
def test_kinds_that_do_not_fit_the_samples_are_refused(folder, parts):
    path = folder / "samples.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parts": parts}))
    with pytest.raises(CalibError, match=r"Part|parts|counts"):
        SampleSet.load(folder)


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(3, [0, 2, 3]), (4, [0, 2, 3, 4]), (6, range(6)), (99, range(6)), (1, [2])],
)
def test_a_share_of_a_set_has_every_kind_in_its_proportion(count, wanted):
    parts = dataclasses.replace(make_set(), parts=PARTS)
    assert parts.share(count).tolist() == list(wanted)


def test_a_share_of_one_kind_is_the_first_samples():
    assert make_set().share(4).tolist() == [0, 1, 2, 3]


def test_a_set_is_never_made_with_other_counts_than_it_has():
    with pytest.raises(EdgeqBug, match="6 samples in the parts of a set of 5"):
        dataclasses.replace(make_set(count=5), parts=PARTS)


@pytest.mark.parametrize("change", ["missing", "changed", "shorter"])
def test_another_input_that_does_not_fit_is_refused(tmp_path, change):
    made = make_pair()
    if change == "shorter":
        made.others["a"] = made.others["a"][:5]
    made.save(tmp_path)
    if change == "missing":
        (tmp_path / "input_2.npy").unlink()
    elif change == "changed":
        np.save(tmp_path / "input_1.npy", np.zeros((6, 4), np.uint8))
    with pytest.raises(CalibError):
        SampleSet.load(tmp_path)


@pytest.mark.parametrize("labels", [True, False], ids=["labels", "no_labels"])
def test_a_set_comes_back_as_it_was(tmp_path, labels):
    made = make_set(labels=labels)
    made.save(tmp_path)
    found = SampleSet.load(tmp_path)
    assert len(found) == 6
    assert (found.input_name, found.provenance) == (made.input_name, made.provenance)
    np.testing.assert_array_equal(found.samples, made.samples)
    assert (tmp_path / "labels.npy").exists() == labels
    if labels:
        np.testing.assert_array_equal(found.labels, made.labels)
    else:
        assert found.labels is None


def test_the_same_set_gives_the_same_bytes(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("again")
    make_set().save(other)
    for path in folder.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes()


def test_labels_of_an_older_set_in_the_folder_are_not_read(folder):
    make_set(labels=False).save(folder)
    assert SampleSet.load(folder).labels is None


@pytest.mark.parametrize("name", ["samples.npy", "labels.npy"])
@pytest.mark.parametrize("fault", ["changed", "missing"])
def test_a_changed_or_missing_array_is_refused(folder, name, fault):
    path = folder / name
    if fault == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with pytest.raises(CalibError, match=f"{name} is missing or was changed") as caught:
        SampleSet.load(folder)
    assert caught.value.path == str(folder)


def test_a_folder_without_a_set_is_told(tmp_path):
    with pytest.raises(InputError, match=r"samples\.json"):
        SampleSet.load(tmp_path)


def test_the_losses_lie_beside_the_samples_and_are_checked_like_them(tmp_path):
    made = dataclasses.replace(make_set(), history=[{"step": 0.0, "loss": 1.5}])
    assert "history.json" in made.save(tmp_path)
    assert SampleSet.load(tmp_path).history == made.history
    (tmp_path / "history.json").write_text("[]")
    with pytest.raises(CalibError, match=r"history\.json is missing or was changed"):
        SampleSet.load(tmp_path)


def test_a_set_that_was_not_optimised_has_no_losses(folder):
    assert not (folder / "history.json").exists()
    assert SampleSet.load(folder).history == []


def edit_record(folder, **changes) -> None:
    path = folder / "samples.json"
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: item for key, item in record.items() if item is not None}))


@pytest.mark.parametrize("record", ["[]", "{}", '{"schema": 99}'])
def test_a_record_of_another_schema_is_refused(folder, record):
    (folder / "samples.json").write_text(record)
    with pytest.raises(CalibError, match="schema"):
        SampleSet.load(folder)


@pytest.mark.parametrize("key", ["files", "input_name", "provenance"])
def test_a_record_without_one_of_its_keys_is_refused(folder, key):
    edit_record(folder, **{key: None})
    with pytest.raises(CalibError, match="incomplete"):
        SampleSet.load(folder)


def test_a_record_without_the_samples_digest_is_refused(folder):
    edit_record(folder, files={})
    with pytest.raises(CalibError, match=r"samples\.npy"):
        SampleSet.load(folder)


@pytest.mark.parametrize(
    ("name", "array"),
    [("samples.npy", np.zeros((6, 3, 4, 4))), ("labels.npy", np.arange(5))],
    ids=["dtype", "count"],
)
def test_arrays_that_do_not_fit_together_are_refused(folder, name, array):
    np.save(folder / name, array)
    files = json.loads((folder / "samples.json").read_text())["files"]
    edit_record(folder, files=files | {name: digest_file(folder / name)})
    with pytest.raises(CalibError, match="do not fit together"):
        SampleSet.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"input_name": ["x"]},
        {"provenance": [1]},
        {"provenance": {"loss": float("nan")}},
        {"files": {"samples.npy": 5}},
        {"others": 5},
        {"others": [["a"]]},
    ],
    ids=["name", "provenance", "nan", "digest", "number", "names"],
)
def test_a_record_whose_values_are_of_another_kind_is_refused(folder, changes):
    edit_record(folder, **changes)
    with pytest.raises(CalibError, match=r"samples\.json is incomplete or damaged"):
        SampleSet.load(folder)


def put(folder, name: str, data: bytes) -> None:
    """Replace a file of the set, digest and all."""
    (folder / name).write_bytes(data)
    files = json.loads((folder / "samples.json").read_text())["files"]
    edit_record(folder, files=files | {name: digest_file(folder / name)})


def stored(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no array",
        b"PK\x03\x04 and no zip",
        stored(np.array([{}], dtype=object)),
        stored(np.zeros((99, 99)))[:200],
        stored(np.zeros(3)).replace(b"(3,)", b"(  ,"),
        stored(np.zeros(3)).replace(b"(3,), }" + 20 * b" ", b"(%d,), }" % 10**21),
    ],
    ids=["empty", "text", "zip", "pickled", "cut-off", "header", "huge"],
)
def test_a_file_that_is_no_array_of_numbers_is_refused(folder, data):
    put(folder, "samples.npy", data)
    with pytest.raises(CalibError, match=r"samples\.npy is no array of numbers"):
        SampleSet.load(folder)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("samples.npy", np.float32(3)),
        ("labels.npy", np.zeros(6, np.float32)),
        ("labels.npy", np.zeros((6, 2), np.int64)),
        ("labels.npy", np.array(["cat"] * 6)),
    ],
    ids=["a-number", "float-labels", "two-labels", "words"],
)
def test_arrays_of_another_form_are_refused(folder, name, array):
    put(folder, name, stored(array))
    with pytest.raises(CalibError, match="do not fit together"):
        SampleSet.load(folder)


@pytest.mark.parametrize("text", ["5", "[5]", '[{"loss": "x"}]', '[{"loss": NaN}]'])
def test_losses_that_are_none_are_refused(folder, text):
    put(folder, "history.json", text.encode())
    with pytest.raises(CalibError, match=r"history\.json is no list of losses"):
        SampleSet.load(folder)
