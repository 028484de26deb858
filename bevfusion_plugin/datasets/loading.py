"""Multi-view image loading with the matrices the view transform needs.

Letters: N cameras, H x W image. Frames are named at both ends; every matrix acts on column vectors.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from mmcv import imfrombytes
from mmcv.transforms import BaseTransform
from mmengine.fileio import get
from PIL import ExifTags, Image

from bevfusion_plugin.datasets.checks.fault import sample_name
from bevfusion_plugin.datasets.checks.infos import cameras_with_picture
from bevfusion_plugin.plan.checked_settings import one_of, switch, whole_number
from bevfusion_plugin.registry import TRANSFORMS

COLOR_TYPES = ('color', 'grayscale', 'unchanged', 'color_ignore_orientation', 'grayscale_ignore_orientation')
CAMERA_KEYS = ('img_path', 'lidar2cam', 'cam2img')


def rigid_inverse(lidar2cam: np.ndarray) -> np.ndarray:
    """The inverse of a rigid 4x4 transform (float64), taking the transposed rotation as its inverse.

    Args:
        lidar2cam: (4, 4), orthonormal rotation and translation in metres. Rounded to float32 first, as the
            reference does: the last digits of ``cam2lidar`` depend on it.

    Source:
        mmdetection3d 1.4.0 ``projects/BEVFusion`` (``BEVLoadMultiViewImageFromFiles``).
    """
    lidar2cam = np.asarray(lidar2cam, dtype=np.float32)
    rotation = lidar2cam[:3, :3].T
    inverse = np.eye(4)
    inverse[:3, :3] = rotation
    inverse[:3, 3] = -(rotation @ lidar2cam[:3, 3])
    return inverse


def homogeneous(cam2img: np.ndarray) -> np.ndarray:
    """``cam2img`` (3x3, 3x4 or 4x4) as a 4x4 float32 matrix."""
    cam2img = np.asarray(cam2img, dtype=np.float32)
    rows, columns = cam2img.shape
    matrix = np.eye(4, dtype=np.float32)
    matrix[:rows, :columns] = cam2img
    return matrix


def camera_matrices(cameras: list[dict]) -> dict[str, np.ndarray]:
    """The four projections of every camera, stacked to (N, 4, 4).

    Args:
        cameras: Per camera its ``lidar2cam`` (4x4) and ``cam2img`` (3x3, 3x4 or 4x4, pixels).

    Returns:
        ``cam2img`` and ``lidar2img`` in float32, ``lidar2cam`` as given (float64 from info files) and
        ``cam2lidar`` in float64.
    """
    lidar2cam = np.stack([np.asarray(camera['lidar2cam']) for camera in cameras])
    cam2img = np.stack([homogeneous(camera['cam2img']) for camera in cameras])
    return dict(
        cam2img=cam2img,
        lidar2cam=lidar2cam,
        cam2lidar=np.stack([rigid_inverse(matrix) for matrix in lidar2cam]),
        lidar2img=cam2img @ lidar2cam.astype(np.float32),
    )


def pad_to_largest(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The images (H, W[, C]) with zeros added below and to the right until all have the largest height and width."""
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    padded = []
    for image in images:
        if image.shape[:2] != (height, width):
            canvas = np.zeros((height, width, *image.shape[2:]), dtype=image.dtype)
            canvas[: image.shape[0], : image.shape[1]] = image
            image = canvas
        padded.append(image)
    return padded


def decode(content: bytes, color_type: str, draft_factor: int = 1) -> tuple[np.ndarray, tuple[int, int]]:
    """The image as ``mmcv.imfrombytes`` decodes it with Pillow in RGB order; saves a copy where nothing is to turn.

    Args:
        content: The file's bytes.
        color_type: ``flag`` of ``mmcv.imfrombytes``.
        draft_factor: Above 1 the JPEG decoder gives an image smaller by this factor.

    Returns:
        (H, W, 3), and height and width as recorded.

    Raises:
        OSError: The bytes are no image or end too early.
        ValueError: ``draft_factor`` is above 1 and the image is not an upright RGB JPEG, which alone can be reduced.
    """
    if color_type == 'color':
        image = Image.open(io.BytesIO(content))
        if image.mode == 'RGB' and image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            width, height = image.size
            if draft_factor > 1 and image.draft('RGB', (width // draft_factor, height // draft_factor)) is None:
                raise ValueError(f'draft_factor={draft_factor} needs JPEG images, got {image.format}; set draft_factor=1')
            return np.array(image), (height, width)
    if draft_factor > 1:
        raise ValueError(f'draft_factor={draft_factor} needs upright RGB images; set draft_factor=1')
    image = imfrombytes(content, flag=color_type, channel_order='rgb', backend='pillow')
    return image, image.shape[:2]


@TRANSFORMS.register_module()
class BEVLoadMultiViewImageFromFiles(BaseTransform):
    """Loads the images of one frame and stacks their camera matrices.

    Reads ``images`` (camera name -> ``img_path``, ``lidar2cam``, ``cam2img``; mmdet3d's info format 2). Adds
    ``img`` (list of (H, W, 3) RGB arrays, smaller ones padded with zeros to the largest), the matrices of
    :func:`camera_matrices`, ``ori_cam2img``, ``img_path``, ``filename``, ``img_shape``, ``ori_shape``, ``pad_shape``,
    ``scale_factor``, ``img_norm_cfg``, ``num_views`` and ``num_ref_frames``. Where the images differ in size, ``img_shape``
    and ``ori_shape`` are the largest, and each camera of ``images`` gets its own as ``img_shape`` and ``ori_shape``, which
    ``ImageAug3D`` goes by.

    Args:
        to_float32: Give the images as float32. ``ImageAug3D`` works on uint8 and returns float32 either way, so
            False is faster in front of it and changes nothing.
        color_type: ``flag`` of ``mmcv.imfrombytes``; decoding is Pillow's, in RGB order.
        backend_args: Storage backend of ``mmengine.fileio.get``.
        num_views: Stored under ``num_views``; the images loaded are those of ``images``.
        num_ref_frames: Stored; loading earlier frames is not supported.
        test_mode: Accepted for the reference's configs; it only concerns earlier frames.
        set_default_scale: Whether to add ``scale_factor``.
        draft_factor: 1, 2, 4 or 8. Above 1 JPEG images are decoded that much smaller, which is faster and changes the pixels
            (benchmarks/pipeline.py --draft says by how much); ``ori_shape`` stays the recorded one, so ``ImageAug3D`` draws
            and records the same matrices. Take it no larger than one over the resize factor.
        cameras: Names of the cameras to load, in this order; None: all that have a picture, in the order of ``images``.

    Raises:
        ValueError: ``num_ref_frames`` is positive, ``cameras`` is empty, or ``draft_factor`` is none of its four values or
            comes without ``color_type='color'`` (at construction).
        KeyError: ``images``, a picture of every camera or of one of ``cameras``, or the calibration of one is missing.
        FileNotFoundError: An image is not there.
        OSError: An image cannot be decoded.

    Source:
        mmdetection3d 1.4.0 ``projects/BEVFusion``; equal results, without the float32 stack over cameras.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = 'unchanged',
        backend_args: dict | None = None,
        num_views: int = 5,
        num_ref_frames: int = -1,
        test_mode: bool = False,
        set_default_scale: bool = True,
        draft_factor: int = 1,
        cameras: Sequence[str] | None = None,
    ) -> None:
        if cameras is not None and (isinstance(cameras, str) or not cameras):
            raise ValueError(f'cameras must be names of cameras, or None for all, got {cameras!r}')
        for name, value in dict(to_float32=to_float32, test_mode=test_mode, set_default_scale=set_default_scale).items():
            switch(name, value)
        one_of('color_type', color_type, COLOR_TYPES)
        whole_number('num_views', num_views, 0), whole_number('num_ref_frames', num_ref_frames, -1)
        if isinstance(draft_factor, bool) or draft_factor not in (1, 2, 4, 8) or (draft_factor > 1 and color_type != 'color'):
            raise ValueError(
                f"draft_factor must be 1, 2, 4 or 8, and needs color_type='color', got {draft_factor!r} with color_type={color_type!r}"
            )
        if num_ref_frames > 0:
            raise ValueError(f'num_ref_frames must be <= 0, got {num_ref_frames}: BEVFusion uses one image a camera; remove the argument')
        self.to_float32 = to_float32
        self.color_type = color_type
        self.backend_args = backend_args
        self.num_views = num_views
        self.num_ref_frames = num_ref_frames
        self.test_mode = test_mode
        self.set_default_scale = set_default_scale
        self.draft_factor = draft_factor
        self.cameras = cameras

    def transform(self, results: dict) -> dict:
        """``results`` with the images and matrices added."""
        cameras = self._cameras(results)
        images, recorded = zip(*[self._load(name, camera['img_path']) for name, camera in cameras.items()])
        if len({image.shape[:2] for image in images}) > 1:
            for camera, image, size in zip(cameras.values(), images, recorded):
                camera.update(img_shape=image.shape[:2], ori_shape=tuple(size))
            images = pad_to_largest(images)
        if self.to_float32:
            images = [image.astype(np.float32) for image in images]
        shape = images[0].shape
        channels = shape[2] if len(shape) == 3 else 1
        paths = [camera['img_path'] for camera in cameras.values()]

        results.update(camera_matrices(list(cameras.values())))
        results['ori_cam2img'] = results['cam2img'].copy()
        results.update(img=images, img_path=paths, filename=paths)
        results.update(img_shape=shape[:2], ori_shape=tuple(np.max(recorded, axis=0).tolist()), pad_shape=shape[:2])
        if self.set_default_scale:
            results['scale_factor'] = 1.0
        results['img_norm_cfg'] = dict(mean=np.zeros(channels, np.float32), std=np.ones(channels, np.float32), to_rgb=False)
        results.update(num_views=self.num_views, num_ref_frames=self.num_ref_frames)
        return results

    def _cameras(self, results: dict) -> dict[str, dict]:
        if not results.get('images'):
            mend = (
                "set modality=dict(use_lidar=True, use_camera=True) in the dataset and use info files of mmdet3d's format 2 "
                "(mmdet3d's create_data.py nuscenes)"
            )
            if isinstance(results.get('img_path'), str):  # what mmdet3d.apis.inference_multi_modality_detector hands on of one camera
                mend = (
                    f"it has one image, {results['img_path']}; give inference_multi_modality_detector cam_type='all' and the images' folder"
                )
            raise KeyError(f"the sample has no 'images': {mend}")
        pictured = cameras_with_picture(results['images'])
        absent = [name for name in self.cameras or [] if name not in pictured]
        if absent or not pictured:
            raise KeyError(
                f'{sample_name(results)}: no picture (img_path) of {", ".join(absent) or "any camera"}; cameras with '
                f'one: {", ".join(pictured) or "none"}, listed in images: {", ".join(results["images"])}. Name those to '
                'load with cameras=[...], or create the info files again, with images'
            )
        chosen = {name: pictured[name] for name in self.cameras or pictured}
        for name, camera in chosen.items():
            missing = [key for key in CAMERA_KEYS if key not in camera]
            if missing:
                raise KeyError(
                    f'{sample_name(results)}: camera {name} lacks {missing}, it has {sorted(camera)}: create the info '
                    'files again with mmdet3d 1.1 or newer, or leave the camera out with cameras=[...]'
                )
        return chosen

    def _load(self, camera: str, path: str) -> tuple[np.ndarray, tuple[int, int]]:
        try:
            content = get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'image of {camera} not found: {path}; expected <data_root>/samples/{camera}/*.jpg as nuScenes is '
                'laid out: check data_root and data_prefix of the dataset'
            ) from error
        try:
            return decode(content, self.color_type, self.draft_factor)
        except OSError as error:
            raise OSError(f'image of {camera} cannot be decoded: {path} ({error}); copy the file again') from error

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(to_float32={self.to_float32}, color_type={self.color_type!r}, '
            f'num_views={self.num_views}, num_ref_frames={self.num_ref_frames}, test_mode={self.test_mode}, '
            f'draft_factor={self.draft_factor})'
        )
