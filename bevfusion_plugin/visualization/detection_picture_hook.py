"""Writes a picture of each evaluated sample, its boxes drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor

from bevfusion_plugin.plan.checked_settings import checked_share, file_path, positive_int
from bevfusion_plugin.registry import HOOKS
from bevfusion_plugin.visualization.box_lines import compose_image_augmentation
from bevfusion_plugin.visualization.scene_pictures import SceneBoxes, scene_figure

TOKEN_KEY = 'token'  # of the picture's text that names the sample


def sample_figure(
    sample: BaseDataElement,
    points: Tensor,
    images: Tensor | None = None,
    class_names: Sequence[str] = (),
    score_thr: float = 0.3,
    token: str = '',
) -> Figure:
    """The page of :func:`scene_figure` for a sample as a detector returns it.

    Everything is drawn in the frame of ``points``: annotations and cameras, which are recorded in the original lidar frame, are
    moved by the sample's ``lidar_aug_matrix`` if it has one.

    Args:
        sample: ``Det3DDataSample`` with ``pred_instances_3d`` (``bboxes_3d``, ``scores_3d``, ``labels_3d``). Annotations come
            from ``eval_ann_info`` (labels below 0, the classes not evaluated, are left out); without it there are none.
        points: (P, >= 3), the network's input.
        images: (N, 3, h, w) in [0, 255], RGB, the network's input before normalisation. They need ``lidar2img`` (N matrices to
            the original images) in the sample's meta info, and ``img_aug_matrix`` if they were augmented.
        class_names: Names by label.
        score_thr: Predictions below are left out.
        token: What the data set calls the sample, for the title.

    Raises:
        ValueError: If there are no predictions, or images without ``lidar2img``.
    """
    meta = sample.metainfo
    lidar_aug = np.asarray(meta.get('lidar_aug_matrix', np.eye(4)), dtype=np.float64)
    scene: dict[str, Any] = dict(
        points=as_array(points),
        prediction=predicted_boxes(sample, score_thr),
        ground_truth=annotated_boxes(sample, lidar_aug),
        class_names=class_names,
    )
    if images is not None:
        scene.update(drawn_cameras(meta, images))
    name = f'{meta.get("sample_idx", "?")}, token {token}' if token else meta.get('sample_idx', '?')
    title = f'sample {name}: predictions with score >= {score_thr:g}, the fainter the lower'
    return scene_figure(**scene, title=title)


def drawn_cameras(meta: Mapping[str, Any], images: Tensor | np.ndarray) -> dict[str, Any]:
    """``images`` (N, H, W, 3) as uint8, ``lidar2img`` (N, 4, 4) from the frame of the network's points to them and, as far as the meta
    info of the sample tells, ``camera_names``.

    Args:
        meta: With ``lidar2img``, and ``img_aug_matrix``, ``lidar_aug_matrix`` and ``img_path`` where there are such.
        images: (N, 3, h, w) in [0, 255], RGB.

    Raises:
        ValueError: If there is no ``lidar2img``.
    """
    check_projected(meta)
    lidar_aug = np.asarray(meta.get('lidar_aug_matrix', np.eye(4)), dtype=np.float64)
    lidar2img = np.asarray(meta['lidar2img'], dtype=np.float64) @ np.linalg.inv(lidar_aug)
    if 'img_aug_matrix' in meta:
        lidar2img = compose_image_augmentation(lidar2img, np.asarray(meta['img_aug_matrix'], dtype=np.float64))
    pixels = np.clip(as_array(images), 0, 255).astype(np.uint8)
    found: dict[str, Any] = dict(images=pixels.transpose(0, 2, 3, 1), lidar2img=lidar2img)
    if 'img_path' in meta:
        found.update(camera_names=[Path(path).parent.name for path in meta['img_path']])
    return found


def check_projected(meta: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` if the meta info of a sample with images has no ``lidar2img``."""
    if 'lidar2img' not in meta:
        raise ValueError(
            "there are images, but no 'lidar2img' to draw boxes into them; add 'lidar2img' and "
            "'img_aug_matrix' to meta_keys of Pack3DDetInputs"
        )


def check_named(meta: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` if the meta info of a sample has no ``sample_idx``."""
    if 'sample_idx' not in meta:
        raise ValueError("a sample has no 'sample_idx' to name its picture after; add it to meta_keys of Pack3DDetInputs")


def predicted_boxes(sample: BaseDataElement, score_thr: float) -> SceneBoxes:
    """The predictions of a ``Det3DDataSample`` with a score of at least ``score_thr``.

    Raises:
        ValueError: If it has no ``pred_instances_3d`` or this lacks ``bboxes_3d``, ``scores_3d`` or ``labels_3d``.
    """
    found = sample.get('pred_instances_3d')
    if found is None or any(key not in found for key in ('bboxes_3d', 'scores_3d', 'labels_3d')):
        raise ValueError(
            'pred_instances_3d with bboxes_3d, scores_3d and labels_3d is missing; the pictures are for detectors '
            'whose predict() returns Det3DDataSamples'
        )
    scores = as_array(found.scores_3d)
    kept = scores >= score_thr
    return SceneBoxes(as_array(found.bboxes_3d.corners)[kept], as_array(found.labels_3d)[kept], scores[kept])


def annotated_boxes(sample: BaseDataElement, lidar_aug_matrix: np.ndarray) -> SceneBoxes | None:
    """The annotations in ``eval_ann_info`` moved by ``lidar_aug_matrix`` (4, 4); None for a sample without annotations."""
    annotations = sample.get('eval_ann_info')
    if annotations is None:
        return None
    labels = as_array(annotations['gt_labels_3d'])
    corners = as_array(annotations['gt_bboxes_3d'].corners)[labels >= 0]
    return SceneBoxes(corners @ lidar_aug_matrix[:3, :3].T + lidar_aug_matrix[:3, 3], labels[labels >= 0])


def as_array(values: Tensor | np.ndarray) -> np.ndarray:
    """As numpy; floating point as float32, since numpy knows no bfloat16."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def sample_token(dataset: Any, sample: BaseDataElement) -> str:
    """What the data set calls the sample: from its meta info or from the data set, whose sample ``sample_idx`` it is; '' if unknown."""
    index, get_info = sample.metainfo.get('sample_idx'), getattr(dataset, 'get_data_info', None)
    info = get_info(index) if get_info is not None and isinstance(index, int) else {}
    known = info.get(TOKEN_KEY, '') if info.get('sample_idx') == index else ''  # a data set that repeats another one counts otherwise
    return str(sample.metainfo.get(TOKEN_KEY) or known)


def picture_name(sample: str) -> str:
    """File name of a sample's picture."""
    return re.sub(r'[^A-Za-z0-9_.-]', '_', sample) + '.png'


@HOOKS.register_module()
class DetectionPictureHook(Hook):
    """Writes ``<out_dir>/<sample_idx>.png`` for the first samples of each validation and test: see :func:`sample_figure`. The sample's
    token stands in its title and in the file's own text, for the report.

    Only the main process writes, so with several GPUs these are the samples that it evaluates. Each validation overwrites the
    pictures of the one before.

    Args:
        out_dir: Folder; None means ``pictures`` in the work dir.
        score_thr: Predictions below are not drawn.
        max_samples: How many pictures an evaluation writes.

    Raises:
        ValueError: If ``score_thr`` is outside [0, 1] or ``max_samples`` is below 1.
    """

    def __init__(self, out_dir: str | None = None, score_thr: float = 0.3, max_samples: int = 20) -> None:
        self.out_dir = out_dir if out_dir is None else str(file_path('out_dir', out_dir))
        self.score_thr = checked_share('score_thr', score_thr)
        self.max_samples = positive_int('max_samples', max_samples, 'leave the hook out to have no pictures')
        self.drawn = 0

    def before_train(self, runner: Runner) -> None:
        """Look at the first sample of the validation, which would end the training after an epoch if it could not be drawn.

        Raises:
            ValueError: If it has no name, or images that boxes cannot be drawn into.
        """
        if runner.val_loop is None or not is_main_process():
            return
        packed = runner.val_dataloader.dataset[0]
        check_named(packed['data_samples'].metainfo)
        if 'img' in packed['inputs']:
            check_projected(packed['data_samples'].metainfo)

    def before_val_epoch(self, runner: Runner) -> None:
        """Count from zero."""
        self.drawn = 0

    def before_test_epoch(self, runner: Runner) -> None:
        """Count from zero."""
        self.drawn = 0

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[BaseDataElement]) -> None:
        """Draw the batch's samples."""
        self._draw_batch(runner, runner.val_dataloader.dataset, data_batch, outputs)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[BaseDataElement]) -> None:
        """Draw the batch's samples."""
        self._draw_batch(runner, runner.test_dataloader.dataset, data_batch, outputs)

    def _draw_batch(self, runner: Runner, dataset: Any, data_batch: Mapping, samples: Sequence[BaseDataElement]) -> None:
        if not is_main_process() or self.drawn >= self.max_samples:
            return
        folder = Path(self.out_dir or Path(runner.work_dir) / 'pictures')
        folder.mkdir(parents=True, exist_ok=True)
        class_names = getattr(dataset, 'metainfo', {}).get('classes', ())
        inputs = data_batch['inputs']
        for index, sample in enumerate(samples[: self.max_samples - self.drawn]):
            check_named(sample.metainfo)
            name, token = str(sample.metainfo['sample_idx']), sample_token(dataset, sample)
            try:
                images = inputs['img'][index] if 'img' in inputs else None
                figure = sample_figure(sample, inputs['points'][index], images, class_names, self.score_thr, token)
            except Exception as error:
                raise RuntimeError(
                    f'cannot draw sample {name}: {type(error).__name__}: {error}\nTo evaluate without '
                    'pictures leave out DetectionPictureHook (--show-dir)'
                ) from error
            # Level 6, the default, takes most of a page's time to make it a tenth smaller.
            figure.savefig(folder / picture_name(name), metadata={TOKEN_KEY: token}, pil_kwargs=dict(compress_level=1))
            self.drawn += 1
