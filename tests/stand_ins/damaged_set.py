"""A small set of nuScenes and what damages it: its files, its info file, single values in it."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

INDEX = 1  # a sample with sweeps


@dataclass
class Copy:
    """A copy of the set, to be damaged.

    Attributes:
        root: Its folder.
        infos: Content of its info files, written by :meth:`save`.
    """

    root: Path
    infos: dict

    @property
    def entry(self) -> dict:
        return self.infos['data_list'][INDEX]

    @property
    def camera(self) -> dict:
        return self.entry['images']['CAM_FRONT']

    @property
    def box(self) -> dict:
        """A box that is trained."""
        return next(box for box in self.entry['instances'] if box['num_lidar_pts'] > 0)

    @property
    def points(self) -> Path:
        return self.root / 'samples' / 'LIDAR_TOP' / self.entry['lidar_points']['lidar_path']

    @property
    def sweep(self) -> Path:
        return self.root / self.entry['lidar_sweeps'][0]['lidar_points']['lidar_path']

    @property
    def image(self) -> Path:
        return self.root / 'samples' / 'CAM_FRONT' / self.camera['img_path']

    @property
    def ann_file(self) -> Path:
        return self.root / 'nuscenes_infos_train.pkl'

    def save(self) -> None:
        for split in ('train', 'val'):
            (self.root / f'nuscenes_infos_{split}.pkl').write_bytes(pickle.dumps(self.infos))


def truncate(path: Path, size: float) -> Path:
    """Leave a share (below 1) of the file, or so many bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(size * len(content)) if size < 1 else int(size)])
    return path


def change_points(path: Path, change) -> Path:
    points = np.fromfile(path, dtype=np.float32).reshape(-1, 5)
    np.asarray(change(points)).tofile(path)
    return path


def with_value(rows: slice, column: int, value: float):
    def change(points: np.ndarray) -> np.ndarray:
        points[rows, column] = value
        return points

    return change


def half(path: Path) -> Path:
    return change_points(path, lambda points: points[: len(points) // 2])


def change_image(copy: Copy, change, format: str = 'JPEG') -> Path:
    image = change(Image.open(copy.image).convert('RGB'))
    file = io.BytesIO()
    image.save(file, format)
    copy.image.write_bytes(file.getvalue())
    return copy.image


def resized(factor: float):
    return lambda image: image.resize((int(image.width * factor), int(image.height * factor)))


def put(copy: Copy, holder, key, value) -> Path:
    holder[key] = value
    return copy.ann_file


def drop(copy: Copy, holder, key) -> Path:
    del holder[key]
    return copy.ann_file


def matrix_with(matrix: list, row: int, column: int, value: float) -> list:
    changed = np.array(matrix)
    changed[row, column] = value
    return changed.tolist()


def put_in_matrix(copy: Copy, holder: dict, key: str, value: float, row: int = 0, column: int = 3) -> Path:
    return put(copy, holder, key, matrix_with(holder[key], row, column, value))


def put_in_box(copy: Copy, place: int, value: float) -> Path:
    copy.box['bbox_3d'][place] = value
    return copy.ann_file


def put_categories(copy: Copy, names: list[str]) -> Path:
    return put(copy, copy.infos['metainfo'], 'categories', {name: label for label, name in enumerate(names)})


def names(copy: Copy) -> list[str]:
    return list(copy.infos['metainfo']['categories'])
