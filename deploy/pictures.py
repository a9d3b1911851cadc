"""Pictures in a folder or a zip; labelled ones in one subfolder a class, numbered in the order of their names.

Nothing is extracted to disk, and what is read is bounded: by member, by count, and by pixels. Main entries:
`open_pictures`, `load_labelled_images`, `load_images`. Pillow is imported when a picture is decoded.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.core.errors import InputError
from edgeq.core.specs import InputSpec, Layout

PICTURE_BYTES = 64 << 20  # of one picture file, unpacked
MAX_MEMBERS = 5_000_000
_LISTED = 10  # names in one message

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
_SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"],
)
_LITTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """A file or folder of the set; `handle` is what its reader takes."""

    name: PurePosixPath
    is_folder: bool
    handle: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSet:
    """Pictures that are found, not yet decoded.

    Attributes:
        path: the folder or zip.
        classes: names of the class folders, in alphabetical order, or by number where all are numbers; the index of a
            name is its label.
        files: (member, label), in order of name.
        read: returns the bytes of a member.
    """

    path: Path
    classes: tuple[str, ...]
    files: tuple[tuple[_Member, int], ...]
    read: Callable[[Any], bytes]

    def __len__(self) -> int:
        return len(self.files)

    def batches(
        self, spec: InputSpec, size: int
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Yield (pixels as the model takes them [N, *shape], labels [N]), N <= `size`.

        Raises:
            InputError: if the input takes no pictures; or, when all is read or ten files failed, names the pictures
                that cannot be decoded.
        """
        height, width = _picture_size(spec)
        broken: list[str] = []
        pixels: list[NDArray[np.uint8]] = []
        labels: list[int] = []
        for member, label in self.files:
            try:
                data = self.read(member.handle)
                picture = decode_picture(data, height=height, width=width, channels=spec.channels)
            except _decode_faults() as error:
                broken.append(f"{member.name} ({_decode_text(error)})")
                if len(broken) == _LISTED:
                    break
                continue
            pixels.append(picture)
            labels.append(label)
            if len(pixels) == size:
                yield _batch(spec, pixels, labels)
                pixels, labels = [], []
        if broken:
            raise _refused("pictures cannot be decoded", broken, self.path)
        if pixels:
            yield _batch(spec, pixels, labels)


@contextmanager
def open_pictures(path: Path) -> Iterator[PictureSet]:
    """Yield the picture set in `path`, a folder or a zip; a single folder around the class folders is allowed.

    Raises:
        InputError: if it is neither, or holds unsafe, encrypted, oversized or foreign members (all are listed).
    """
    with _open_members(path) as (members, read):
        yield _find_classes(path, members, read)


def load_labelled_images(
    path: Path, spec: InputSpec, *, size: int = 64
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Yield (pixels [N, *shape] float32 as the model takes them, labels [N] int64) in batches of `size`.

    Raises:
        InputError: see `open_pictures` and `PictureSet.batches`.
    """
    with open_pictures(path) as pictures:
        yield from pictures.batches(spec, size)


def load_images(path: Path, spec: InputSpec, *, size: int = 64) -> NDArray[np.float32]:
    """Return every picture in `path`, a folder or zip of any depth, as the model takes them: [N, *shape], by name.

    Folders have no meaning here.

    Raises:
        InputError: see `open_pictures` and `PictureSet.batches`.
    """
    with _open_members(path) as (members, read):
        files = [item for item in members if not item.is_folder and not _is_litter(item.name)]
        foreign = [str(item.name) for item in files if item.name.suffix.lower() not in _SUFFIXES]
        if foreign:
            raise _refused("files are no pictures", foreign, path)
        if not files:
            raise _refused("no pictures are found", ["the folder or zip is empty"], path)
        ordered = tuple((item, 0) for item in sorted(files, key=lambda item: item.name.parts))
        pictures = PictureSet(path=path, classes=(), files=ordered, read=read)
        return np.concatenate([x for x, _ in pictures.batches(spec, size)])


@contextmanager
def _open_members(path: Path) -> Iterator[tuple[list[_Member], Callable[[Any], bytes]]]:
    """Yield what lies in a folder or zip, and what reads one member."""
    if path.is_dir():
        yield _list_folder(path), _read_file
        return
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise InputError(
            f"no pictures at {path.name}",
            why="a folder or a zip of pictures was expected there, for --eval with one subfolder a class",
            mend="check the path",
            path=path,
        )
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise _refused("the zip cannot be read", [str(error)], path) from error
    with archive:
        yield _list_zip(path, archive), _zip_reader(archive)


def decode_picture(data: bytes, *, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Return a picture file as [height, width, channels], uint8.

    A picture of another size is resized (bilinear) until its shorter side fits, then cropped at the centre.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.mode.startswith(
                "I"
            ):  # 16 bits a pixel: keep the upper 8, as `convert` would clip
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image.convert(_MODES[channels])
    if image.size != (width, height):
        ratio = max(height / image.height, width / image.width)
        wide, high = (
            max(width, round(image.width * ratio)),
            max(height, round(image.height * ratio)),
        )
        left, top = (wide - width) // 2, (high - height) // 2
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(image, np.uint8).reshape(height, width, channels)


def _decode_text(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    is_unknown = isinstance(error, UnidentifiedImageError)  # its own text names an object in memory
    return f"it begins like no {', '.join(_FORMATS)} file" if is_unknown else str(error)


def _picture_size(spec: InputSpec) -> tuple[int, int]:
    is_picture = spec.layout is not Layout.OTHER and len(spec.shape) == 3
    if not is_picture or spec.channels not in _MODES or len(spec.mean) != spec.channels:
        raise InputError(
            f"input '{spec.name}' with the shape {list(spec.shape)} takes no pictures",
            why="pictures have 1, 3 or 4 channels with a mean and a standard deviation each",
            mend="leave the pictures out, or pass --preset (or --mean and --std) with one number a channel",
        )
    rows = 0 if spec.layout is Layout.NHWC else 1
    return spec.shape[rows], spec.shape[rows + 1]


def _batch(
    spec: InputSpec, pixels: list[NDArray[np.uint8]], labels: list[int]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    raw = np.stack(pixels).astype(np.float32) / np.float32(255)
    return spec.normalise(raw), np.asarray(labels, np.int64)


def _find_classes(path: Path, members: list[_Member], read: Callable[[Any], bytes]) -> PictureSet:
    """Return the set whose classes are the top folders (below a single folder around them, if there is one)."""
    members = [item for item in members if not _is_litter(item.name)]
    files = [item for item in members if not item.is_folder]
    tops = {item.name.parts[0] for item in members}
    depth = 1 if len(tops) == 1 and all(len(item.name.parts) > 2 for item in files) else 0
    foreign = [
        str(item.name)
        for item in files
        if len(item.name.parts) < depth + 2 or item.name.suffix.lower() not in _SUFFIXES
    ]
    if foreign:
        raise _refused("files are no pictures in a class folder", foreign, path)
    if not files:
        raise _refused("no pictures are found", ["the folder or zip is empty"], path)
    folders = [
        item.name.parts[depth]
        for item in members
        if len(item.name.parts) > depth + (not item.is_folder)
    ]
    names = set(folders)
    is_numbered = all(name.isdecimal() for name in names)
    classes = tuple(sorted(names, key=lambda name: (int(name) if is_numbered else 0, name)))
    labels = {name: label for label, name in enumerate(classes)}
    ordered = sorted(files, key=lambda item: item.name.parts)
    return PictureSet(
        path=path,
        classes=classes,
        files=tuple((item, labels[item.name.parts[depth]]) for item in ordered),
        read=read,
    )


def _is_litter(name: PurePosixPath) -> bool:
    return any(part in _LITTER or part.startswith(".") for part in name.parts)


def _list_folder(path: Path) -> list[_Member]:
    members = []
    for root, folders, files in os.walk(path, followlinks=True):
        for names, is_folder in ((folders, True), (files, False)):
            for name in names:
                place = Path(root) / name
                relative = PurePosixPath(place.relative_to(path).as_posix())
                members.append(_Member(name=relative, is_folder=is_folder, handle=place))
        if len(members) > MAX_MEMBERS:
            raise _refused("too many files", [f"more than {MAX_MEMBERS}"], path)
    return members


def _read_file(place: Path) -> bytes:
    if not place.is_file():  # reading a pipe would wait without end
        msg = "it is no ordinary file"
        raise OSError(msg)
    with place.open("rb") as file:
        return _read_bounded(file)


def _list_zip(path: Path, archive: zipfile.ZipFile) -> list[_Member]:
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise _refused("too many files", [f"{len(infos)}, more than {MAX_MEMBERS}"], path)
    problems = [f"{info.filename} ({fault})" for info in infos if (fault := _zip_fault(info))]
    if problems:
        raise _refused("members of the zip are refused", problems, path)
    return [_Member(name=_zip_name(info), is_folder=info.is_dir(), handle=info) for info in infos]


def _zip_fault(info: zipfile.ZipInfo) -> str:
    """Return why a member is refused, or "" if it is fine."""
    name = _zip_name(info)
    if name.is_absolute() or ".." in name.parts or any(":" in part for part in name.parts[:1]):
        return "its name leaves the folder"
    if not name.parts:
        return "it has no name"
    if info.flag_bits & 1:
        return "it is encrypted"
    if info.file_size > PICTURE_BYTES:
        return f"it unpacks to {info.file_size >> 20} MiB, more than {PICTURE_BYTES >> 20}"
    return ""


def _zip_name(info: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(
        info.filename.replace("\\", "/")
    )  # some Windows programs write backslashes


def _zip_reader(archive: zipfile.ZipFile) -> Callable[[Any], bytes]:
    def read(info: zipfile.ZipInfo) -> bytes:
        with archive.open(info) as file:
            return _read_bounded(file)

    return read


def _read_bounded(file: Any) -> bytes:
    data: bytes = file.read(PICTURE_BYTES + 1)
    if len(data) > PICTURE_BYTES:
        msg = f"larger than {PICTURE_BYTES >> 20} MiB"
        raise ValueError(msg)
    return data


def _decode_faults() -> tuple[type[Exception], ...]:
    """Return what zipfile and Pillow raise on damaged files; Pillow's PNG reader does raise SyntaxError."""
    from PIL import Image

    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    damaged = (OSError, ValueError, SyntaxError, EOFError, struct.error)
    packed = (zipfile.BadZipFile, zlib.error, NotImplementedError)
    return (*bombs, *damaged, *packed)


def _refused(what: str, names: list[str], path: Path) -> InputError:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return InputError(
        f"{what}: {', '.join(names[:_LISTED])}{more}",
        why="the folder or zip holds pictures only (for --eval in one subfolder a class); anything else would falsify "
        "what is made of them",
        mend="remove or mend these files and run again",
        path=path,
    )
