from __future__ import annotations

import dataclasses
import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from deploy import pictures
from deploy.pictures import decode_picture, load_labelled_images, open_pictures
from edgeq.core.errors import InputError
from edgeq.core.specs import Layout


def png(color=(10, 20, 30), size=(8, 8), mode="RGB", suffix="PNG") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, color).save(stream, suffix)
    return stream.getvalue()


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_folder(path, members):
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def labels_of(path, spec) -> list[int]:
    return [int(label) for _, labels in load_labelled_images(path, spec) for label in labels]


TWO_CLASSES = {"dog/b.png": png(), "cat/a.png": png(), "dog/a.PNG": png()}


@pytest.fixture(params=["folder", "zip"])
def write(request, tmp_path):
    if request.param == "zip":
        return lambda members: write_zip(tmp_path / "set.zip", members)
    return lambda members: write_folder(tmp_path / "set", members)


def test_the_label_is_the_alphabetical_place_of_the_folder(write, input_spec):
    path = write(TWO_CLASSES)
    with open_pictures(path) as found:
        assert found.classes == ("cat", "dog")
        assert len(found) == 3
    assert labels_of(path, input_spec) == [0, 1, 1]


def test_folders_that_are_all_numbers_count_by_number(write, input_spec):
    names = [str(number) for number in (0, 1, 2, 10, 11)]
    with open_pictures(write({f"{name}/a.png": png() for name in names})) as found:
        assert found.classes == tuple(names)
    with open_pictures(write({f"{name}/a.png": png() for name in (*names, "2b")})) as found:
        assert found.classes == ("0", "1", "10", "11", "2", "2b")


def test_a_folder_around_the_classes_is_allowed(write, input_spec):
    path = write({f"data/{name}": data for name, data in TWO_CLASSES.items()})
    assert labels_of(path, input_spec) == [0, 1, 1]


def test_litter_of_desktops_is_passed_over(write, input_spec):
    litter = {"__MACOSX/dog/._b.png": b"x", "dog/.DS_Store": b"x", "cat/Thumbs.db": b"x"}
    assert labels_of(write({**TWO_CLASSES, **litter}), input_spec) == [0, 1, 1]


def test_an_empty_class_folder_counts_as_a_class(tmp_path, input_spec):
    path = write_folder(tmp_path, TWO_CLASSES)
    (path / "bird").mkdir()
    assert labels_of(path, input_spec) == [1, 2, 2]
    zipped = write_zip(tmp_path / "s.zip", {"bird/": b"", **TWO_CLASSES})
    assert labels_of(zipped, input_spec) == [1, 2, 2]


def test_pixels_are_normalised_and_batched(tmp_path, input_spec):
    path = write_folder(tmp_path, {f"a/{i}.png": png((0, 51, 255)) for i in range(5)})
    batches = list(load_labelled_images(path, input_spec, size=2))
    assert [len(x) for x, _ in batches] == [2, 2, 1]
    assert batches[0][0].shape == (2, 3, 8, 8)
    np.testing.assert_allclose(batches[2][0][0, :, 3, 3], [-2.0, -1.2, 2.0], atol=1e-6)


def test_channels_last_inputs_get_channels_last(tmp_path, input_spec):
    spec = dataclasses.replace(input_spec, layout=Layout.NHWC, shape=(8, 8, 3))
    path = write_folder(tmp_path, {"a/0.png": png((0, 51, 255))})
    ((x, _),) = load_labelled_images(path, spec)
    assert x.shape == (1, 8, 8, 3)


def test_grey_pictures_fill_three_channels_and_colour_pictures_become_grey():
    grey = decode_picture(png(90, mode="L"), height=8, width=8, channels=3)
    assert grey.shape == (8, 8, 3)
    assert (grey == 90).all()
    colour = decode_picture(png((90, 90, 90)), height=8, width=8, channels=1)
    assert colour.shape == (8, 8, 1)
    assert (colour == 90).all()


def test_sixteen_bits_are_scaled_and_not_clipped():
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), 0x4000, np.uint16)).save(stream, "PNG")
    assert (decode_picture(stream.getvalue(), height=8, width=8, channels=1) == 0x40).all()


@pytest.mark.parametrize("size", [(16, 16), (32, 16), (16, 40), (5, 8), (7, 3)])
def test_another_size_is_resized_and_cropped_at_the_centre(size):
    image = np.zeros((size[1], size[0]), np.uint8)
    image[:, size[0] // 2 :] = 200  # the edge between black and grey is in the middle
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    picture = decode_picture(stream.getvalue(), height=8, width=8, channels=1)
    assert picture.shape == (8, 8, 1)
    assert picture[4, 1, 0] < 40
    assert picture[4, 6, 0] > 160


def test_a_picture_of_the_right_size_keeps_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    got = decode_picture(stream.getvalue(), height=8, width=8, channels=3)
    np.testing.assert_array_equal(got, pixels)


def test_everything_that_is_no_picture_is_listed_at_once(write, input_spec):
    path = write({**TWO_CLASSES, "dog/notes.txt": b"x", "stray.png": png(), "cat/x": b"x"})
    with pytest.raises(InputError) as caught:
        labels_of(path, input_spec)
    assert all(name in caught.value.what for name in ("dog/notes.txt", "stray.png", "cat/x"))


def test_pictures_that_cannot_be_decoded_are_listed_at_the_end(write, input_spec):
    path = write({**TWO_CLASSES, "dog/bad.png": b"no png", "cat/cut.png": png()[:40]})
    with pytest.raises(InputError, match="cannot be decoded") as caught:
        labels_of(path, input_spec)
    assert "dog/bad.png" in caught.value.what
    assert "cat/cut.png" in caught.value.what


def test_a_pipe_among_the_pictures_is_refused_without_waiting_for_it(tmp_path, input_spec):
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "0.png")
    with pytest.raises(InputError, match=r"a/0.png \(it is no ordinary file\)"):
        list(load_labelled_images(tmp_path, input_spec))


def test_many_bad_pictures_stop_early(tmp_path, input_spec):
    path = write_folder(tmp_path, {f"a/{i:02}.png": b"bad" for i in range(30)})
    with pytest.raises(InputError) as caught:
        labels_of(path, input_spec)
    assert "09.png" in caught.value.what
    assert "10.png" not in caught.value.what


@pytest.mark.parametrize("name", ["/etc/a.png", "../a.png", "x/../../a.png", "C:/x/a.png"])
def test_a_zip_member_that_leaves_the_folder_is_refused(tmp_path, input_spec, name):
    path = write_zip(tmp_path / "s.zip", {**TWO_CLASSES, name: png()})
    with pytest.raises(InputError, match="leaves the folder"):
        labels_of(path, input_spec)


def test_backslashes_do_not_hide_a_member_that_leaves_the_folder(tmp_path, input_spec):
    path = write_zip(tmp_path / "s.zip", {**TWO_CLASSES, "x\\..\\..\\a.png": png()})
    with pytest.raises(InputError, match="leaves the folder"):
        labels_of(path, input_spec)


def test_backslashes_between_folders_are_read(tmp_path, input_spec):
    path = write_zip(
        tmp_path / "s.zip", {name.replace("/", "\\"): data for name, data in TWO_CLASSES.items()}
    )
    assert labels_of(path, input_spec) == [0, 1, 1]


def test_an_encrypted_member_is_refused(tmp_path, input_spec):
    path = write_zip(tmp_path / "s.zip", {"a/0.png": png()})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag of the local header, and of the central directory below
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="encrypted"):
        labels_of(path, input_spec)


def test_an_oversized_member_is_refused_before_it_is_read(tmp_path, input_spec, monkeypatch):
    monkeypatch.setattr(pictures, "PICTURE_BYTES", 1 << 20)
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.png", bytes(3 << 20))
    with pytest.raises(InputError, match="unpacks to 3 MiB, more than 1"):
        labels_of(path, input_spec)


def test_an_oversized_file_is_not_read_whole(tmp_path, input_spec, monkeypatch):
    monkeypatch.setattr(pictures, "PICTURE_BYTES", 50)
    path = write_folder(tmp_path, {"a/0.png": png()})
    with pytest.raises(InputError, match="larger than"):
        labels_of(path, input_spec)


def test_too_many_members_are_refused(write, input_spec, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_MEMBERS", 2)
    with pytest.raises(InputError, match="too many files"):
        labels_of(write(TWO_CLASSES), input_spec)


def test_a_decompression_bomb_is_an_error(tmp_path, input_spec, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = write_folder(tmp_path, {"a/0.png": png(size=(12, 12))})  # Pillow itself only warns
    with pytest.raises(InputError, match="decompression bomb"):
        labels_of(path, input_spec)


def test_a_damaged_zip_member_is_named(tmp_path, input_spec):
    path = write_zip(tmp_path / "s.zip", {"a/0.png": png()})
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF  # inside the stored picture: the checksum is wrong now
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"a/0\.png"):
        labels_of(path, input_spec)


def test_a_missing_path_and_a_file_that_is_no_zip_are_refused(tmp_path, input_spec):
    (tmp_path / "x.zip").write_bytes(b"no zip")
    for name in ("gone", "x.zip"):
        with pytest.raises(InputError, match="no pictures at"):
            labels_of(tmp_path / name, input_spec)


def test_an_empty_folder_is_refused(tmp_path, input_spec):
    with pytest.raises(InputError, match="no pictures are found"):
        labels_of(tmp_path, input_spec)


def test_an_input_that_is_no_picture_is_refused(tmp_path, input_spec):
    path = write_folder(tmp_path, TWO_CLASSES)
    spec = dataclasses.replace(input_spec, layout=Layout.OTHER)
    with pytest.raises(InputError, match="takes no pictures"):
        labels_of(path, spec)


def test_a_zip_leaves_nothing_on_disk(tmp_path, input_spec):
    path = write_zip(tmp_path / "s.zip", TWO_CLASSES)
    labels_of(path, input_spec)
    assert [item.name for item in tmp_path.iterdir()] == ["s.zip"]
