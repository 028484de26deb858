"""Pictures inside a page: scaled down as far as the page's size asks for, as ``data:`` addresses."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from bevfusion_plugin.visualization.detection_picture_hook import TOKEN_KEY

PICTURE_BYTES = 6_500_000  # of all pictures of a page, 8.7 MB as base64; the rest of the page is at most 2 MB
MAX_PICTURES = 24  # of a page; more would leave each too little
MAX_WIDTH = 1600  # pixels
SHRINK = 0.9  # of the width, at least, from one attempt to the next
MIN_WIDTH = 200


def chosen_pictures(per_run: Sequence[Sequence[Path]]) -> list[list[Path]]:
    """The first pictures of each run, as many as a page takes, shared equally."""
    share = max(1, MAX_PICTURES // max(1, len(per_run)))
    return [list(pictures[:share]) for pictures in per_run]


def written_token(picture: Path) -> str:
    """The token of the sample, as DetectionPictureHook wrote it into the picture; '' if it did not.

    Raises:
        ValueError: If the file is no picture.
    """
    try:
        with Image.open(picture) as image:
            return str(image.info.get(TOKEN_KEY, ''))
    except OSError as error:
        raise ValueError(f'{picture} is no picture ({error}); remove it') from error


def data_address(picture: Path, max_bytes: int) -> str:
    """``picture`` as a ``data:`` address: the file itself if it is small enough, else a JPEG of at most ``max_bytes``.

    Raises:
        ValueError: If the file is no picture.
    """
    content = picture.read_bytes()
    try:
        with Image.open(io.BytesIO(content)) as image:
            kind = Image.MIME[image.format]
            if len(content) > max_bytes or image.width > MAX_WIDTH:
                kind, content = 'image/jpeg', _as_jpeg(image.convert('RGB'), max_bytes)
    except OSError as error:  # what Pillow raises for a file that it cannot read
        raise ValueError(f'{picture} is no picture ({error}); remove it') from error
    return f'data:{kind};base64,{base64.b64encode(content).decode()}'


def _as_jpeg(image: Image.Image, max_bytes: int) -> bytes:
    width = min(image.width, MAX_WIDTH)
    while True:
        buffer = io.BytesIO()
        image.resize((width, max(1, round(image.height * width / image.width)))).save(buffer, 'JPEG', quality=85)
        if buffer.tell() <= max_bytes or width <= MIN_WIDTH:
            return buffer.getvalue()
        # Bytes go with the area, a little slower.
        width = max(MIN_WIDTH, int(width * min(SHRINK, math.sqrt(max_bytes / buffer.tell()))))
