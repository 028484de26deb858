"""Image files, judged by their headers and ends; only where those leave a doubt are they decoded."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.fileio import get
from PIL import Image

from bevfusion_plugin.datasets.checks.fault import CHECK_PLACE, COPY_AGAIN, MAKE_AGAIN, Fault, unread

FORMATS = {'.jpg': 'JPEG', '.jpeg': 'JPEG', '.png': 'PNG', '.bmp': 'BMP', '.webp': 'WEBP', '.tif': 'TIFF', '.tiff': 'TIFF'}
GREY = ('1', 'L', 'LA', 'I', 'F', 'I;16')  # Pillow's modes
JPEG_END = b'\xff\xd9'
AXIS = (0.3, 0.7)  # share of the width where the optical axis lies; an image of half or double the size has it at 1 or 0.25
Seen = dict[tuple[str, bytes], tuple[tuple[int, int], str]]  # (camera, cam2img) -> (width, height) and path of an image


def images_fault(cameras: Mapping[str, Mapping[str, Any]], modes: Sequence[str], seen: Seen, backend_args: dict | None) -> Fault | None:
    """The first image of a sample that cannot be used; None if all can.

    Args:
        cameras: Camera -> ``img_path``, ``cam2img`` and, if the info file has them, ``height`` and ``width``.
        modes: Pillow's modes that images may have.
        seen: Sizes of earlier images, to which those of this sample are added.
        backend_args: Storage backend of ``mmengine.fileio.get``.
    """
    for name, camera in cameras.items():
        path = camera['img_path']
        try:
            content = get(path, backend_args=backend_args)
        except OSError as error:
            return Fault(path, f'(image of {name}) {unread(error)}', CHECK_PLACE)
        size, fault = image_content_fault(path, content, modes)
        fault = fault or size_fault(name, camera, size, seen)
        if fault:
            return fault
    return None


def image_content_fault(path: str, content: bytes, modes: Sequence[str]) -> tuple[tuple[int, int], Fault | None]:
    """(width, height) of the image, and why the bytes are not what its name promises; None if they are."""
    if not content:
        return (0, 0), Fault(path, 'is empty', COPY_AGAIN)
    try:
        image = Image.open(io.BytesIO(content))
        size, mode = image.size, image.mode
        if image.format != 'JPEG' or JPEG_END not in content[-64:]:  # some cameras write a few bytes behind the end
            image.draft('RGB', (size[0] // 8, size[1] // 8))  # of JPEG every byte is read and few pixels are made
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return (0, 0), Fault(path, f'cannot be decoded ({error})', COPY_AGAIN)
    expected = FORMATS.get(path[path.rfind('.') :].lower())
    if expected not in (None, image.format):
        return size, Fault(path, f'holds {image.format} data, and its name says {expected}', f'{COPY_AGAIN}, or rename it')
    if mode not in modes:
        kind = 'grey' if mode in GREY else 'not plain colour'
        mend = f"{COPY_AGAIN}; if all images are like this: dict(type='bevfusion_plugin.CheckSample', image_modes=[{mode!r}])"
        return size, Fault(path, f'is of Pillow\'s mode {mode} ({kind}), expected {" or ".join(modes)}', mend)
    return size, None


def size_fault(name: str, camera: Mapping[str, Any], size: tuple[int, int], seen: Seen) -> Fault | None:
    """Why an image of ``size`` (width, height) cannot be of this camera; None if it can."""
    path, (width, height) = camera['img_path'], size
    recorded = camera.get('width'), camera.get('height')
    if None not in recorded:
        if size != tuple(recorded):
            return Fault(
                path,
                f'is {width} x {height} pixels, and the info file says {recorded[0]} x {recorded[1]}',
                f'{COPY_AGAIN}, or correct height and width of the info file',
            )
        return None
    cam2img = np.asarray(camera['cam2img'], dtype=np.float64)
    axis = cam2img[0, 2] / width
    if not AXIS[0] <= axis <= AXIS[1]:
        return Fault(
            path,
            f'is {width} x {height} pixels, and by cam2img of {name} the optical axis meets it at column '
            f'{cam2img[0, 2]:.0f}, {axis:.0%} of the width: its size or its calibration is another camera\'s',
            f'{COPY_AGAIN}, or {MAKE_AGAIN}',
        )
    other, other_path = seen.setdefault((name, cam2img.tobytes()), (size, path))
    if other != size:
        return Fault(
            path,
            f'is {width} x {height} pixels, and {other_path}, of the same camera and with the same cam2img, is '
            f'{other[0]} x {other[1]}: one of them has the wrong size',
            f'{COPY_AGAIN}',
        )
    return None
