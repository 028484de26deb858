"""Times loading and augmentation of one training sample against the formulation of mmdet3d's BEVFusion project.

Both run on mmdet3d's NuScenesDataset with the same random numbers, one after the other, in one thread, as a data
loader's worker does. The samples have to come out equal: images, points, boxes and matrices. With --draft the images are decoded at
half size, which is opt-in (draft_factor=2 of the loader) and changes them; the last line says by how much.

Example:
    python benchmarks/pipeline.py --data-root data/nuscenes --ann-file nuscenes_infos_train.pkl
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from mmcv import imfrombytes
from mmdet3d.datasets import NuScenesDataset
from mmdet3d.datasets.transforms import GlobalRotScaleTrans
from mmengine.fileio import dump, get, load
from PIL import Image
from rich.console import Console
from rich.table import Table

CAMERAS = ['CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_FRONT_LEFT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_BACK_RIGHT']
CLASSES = ['car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier', 'motorcycle', 'bicycle', 'pedestrian', 'traffic_cone']
RANGE = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
FINAL_DIM, RESIZE, ROTATE = (256, 704), (0.38, 0.55), (-5.4, 5.4)
LIDAR_AUG = dict(scale_ratio_range=[0.9, 1.1], rot_range=[-0.78539816, 0.78539816], translation_std=0.5)


class ReferenceLoad:
    """Stacks all cameras in the last axis as float32 and hands out strided views."""

    def __call__(self, results: dict) -> dict:
        cameras = list(results['images'].values())
        eye = np.eye(4, dtype=np.float32)
        cam2img, cam2lidar, lidar2img = [], [], []
        for camera in cameras:
            lidar2cam = np.array(camera['lidar2cam'], dtype=np.float32)
            inverse, intrinsics = np.eye(4), eye.copy()
            inverse[:3, :3] = lidar2cam[:3, :3].T
            inverse[:3, 3] = -lidar2cam[:3, :3].T @ lidar2cam[:3, 3]
            intrinsics[:3, :3] = camera['cam2img']
            cam2img.append(intrinsics)
            cam2lidar.append(inverse)
            lidar2img.append(intrinsics @ lidar2cam)
        decoded = [imfrombytes(get(camera['img_path']), flag='color', channel_order='rgb', backend='pillow') for camera in cameras]
        stack = np.stack(decoded, axis=-1).astype(np.float32)
        results.update(
            cam2img=np.stack(cam2img),
            cam2lidar=np.stack(cam2lidar),
            lidar2img=np.stack(lidar2img),
            lidar2cam=np.stack([camera['lidar2cam'] for camera in cameras]),
            ori_cam2img=copy.deepcopy(np.stack(cam2img)),
            ori_shape=stack.shape[:2],
            img=[stack[..., i] for i in range(stack.shape[-1])],
        )
        return results


class ReferenceImageAug:
    """Goes from float32 to uint8 and back for every image and composes the matrix in torch."""

    def __call__(self, results: dict) -> dict:
        images, matrices = [], []
        for image in results['img']:
            image, matrix = self.augment(image, results['ori_shape'])
            images.append(image)
            matrices.append(matrix)
        results.update(img=images, img_aug_matrix=matrices)
        return results

    def augment(self, image: np.ndarray, ori_shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        resize = np.random.uniform(*RESIZE)
        width, height = int(ori_shape[1] * resize), int(ori_shape[0] * resize)
        top = int((1 - np.random.uniform(0.0, 0.0)) * height) - FINAL_DIM[0]
        left = int(np.random.uniform(0, max(0, width - FINAL_DIM[1])))
        flip, angle = np.random.choice([0, 1]), np.random.uniform(*ROTATE)

        picture = Image.fromarray(image.astype('uint8'))
        picture = picture.resize((width, height)).crop((left, top, left + FINAL_DIM[1], top + FINAL_DIM[0]))
        linear, shift = torch.eye(2) * resize, -torch.Tensor([left, top])
        if flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            mirror = torch.Tensor([[-1, 0], [0, 1]])
            linear, shift = mirror @ linear, mirror @ shift + torch.Tensor([FINAL_DIM[1], 0])
        radians = angle / 180 * np.pi
        turn = torch.Tensor([[np.cos(radians), np.sin(radians)], [-np.sin(radians), np.cos(radians)]])
        middle = torch.Tensor([FINAL_DIM[1], FINAL_DIM[0]]) / 2
        matrix = torch.eye(4)
        matrix[:2, :2] = turn @ linear
        matrix[:2, 3] = turn @ shift + (turn @ -middle + middle)
        return np.array(picture.rotate(angle)).astype(np.float32), matrix.numpy()


class ReferenceLidarAug(GlobalRotScaleTrans):
    """Rotates, translates and scales, then flips, all in place."""

    def transform(self, results: dict) -> dict:
        self._rot_bbox_points(results)
        self._random_scale(results)
        self._trans_bbox_points(results)
        self._scale_bbox_points(results)
        matrix = np.eye(4)
        matrix[:3, :3] = results['pcd_rotation'].T * results['pcd_scale_factor']
        matrix[:3, 3] = results['pcd_trans'] * results['pcd_scale_factor']
        mirrors = dict(horizontal=np.diag([1, -1, 1, 1]), vertical=np.diag([-1, 1, 1, 1]))
        drawn = [np.random.choice([0, 1]) for _ in mirrors]
        for (direction, mirror), chosen in zip(mirrors.items(), drawn):
            if chosen:
                results['points'].flip(direction)
                results['gt_bboxes_3d'].flip(direction)
                matrix = mirror @ matrix
        results['lidar_aug_matrix'] = matrix
        return results


def pipeline(load_images: list, augment_images: list, augment_lidar: list) -> list:
    """The training pipeline of the lidar-camera recipe around the given steps."""
    return [
        *load_images,
        dict(type='mmdet3d.LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
        dict(type='mmdet3d.LoadPointsFromMultiSweeps', sweeps_num=9, load_dim=5, use_dim=5, pad_empty_sweeps=True, remove_close=True),
        dict(type='mmdet3d.LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True, with_attr_label=False),
        *augment_images,
        *augment_lidar,
        dict(type='mmdet3d.PointsRangeFilter', point_cloud_range=RANGE),
        dict(type='mmdet3d.ObjectRangeFilter', point_cloud_range=RANGE),
        dict(type='mmdet3d.ObjectNameFilter', classes=CLASSES),
        dict(type='mmdet3d.PointShuffle'),
        dict(
            type='mmdet3d.Pack3DDetInputs',
            keys=['points', 'img', 'gt_bboxes_3d', 'gt_labels_3d'],
            meta_keys=['cam2img', 'lidar2cam', 'lidar2img', 'cam2lidar', 'img_aug_matrix', 'lidar_aug_matrix'],
        ),
    ]


def pipelines(draft: bool) -> dict[str, list]:
    """Reference and ours by name; ``draft``: ours decodes at half size."""
    image_aug = dict(
        type='bevfusion_plugin.ImageAug3D',
        final_dim=FINAL_DIM,
        resize_lim=RESIZE,
        bot_pct_lim=(0.0, 0.0),
        rot_lim=ROTATE,
        rand_flip=True,
        is_train=True,
    )
    return dict(
        reference=pipeline([ReferenceLoad()], [ReferenceImageAug()], [ReferenceLidarAug(**LIDAR_AUG)]),
        ours=pipeline(
            [dict(type='bevfusion_plugin.BEVLoadMultiViewImageFromFiles', color_type='color', draft_factor=2 if draft else 1)],
            [image_aug],
            [dict(type='bevfusion_plugin.BEVFusionGlobalRotScaleTrans', **LIDAR_AUG), dict(type='bevfusion_plugin.BEVFusionRandomFlip3D')],
        ),
    )


def with_sweeps(ann_file: Path, folder: str) -> str:
    """A copy of the info file in which a frame without sweeps has its key frame as nine sweeps, each read anew."""
    infos = load(ann_file)
    for info in infos['data_list']:
        if not info.get('lidar_sweeps'):
            key_frame = dict(lidar_path=f'samples/LIDAR_TOP/{info["lidar_points"]["lidar_path"]}', lidar2sensor=np.eye(4).tolist())
            info['lidar_sweeps'] = [dict(timestamp=info['timestamp'], lidar_points=key_frame) for _ in range(9)]
    path = f'{folder}/infos.pkl'
    dump(infos, path)
    return path


def dataset(data_root: Path, ann_file: str, steps: list) -> NuScenesDataset:
    prefixes = {camera: f'samples/{camera}' for camera in CAMERAS}
    return NuScenesDataset(
        data_root=str(data_root),
        ann_file=ann_file,
        pipeline=steps,
        metainfo=dict(classes=CLASSES),
        data_prefix=dict(pts='samples/LIDAR_TOP', sweeps='sweeps/LIDAR_TOP', **prefixes),
        modality=dict(use_lidar=True, use_camera=True),
        use_valid_flag=True,
    )


def timed(data: NuScenesDataset, index: int, seed: int) -> tuple[dict, dict[str, float]]:
    """One sample and the seconds every step took, the whole under 'sample'."""
    np.random.seed(seed)
    torch.manual_seed(seed)
    seconds, start = {}, time.perf_counter()
    results = data.get_data_info(index)
    results.update(box_type_3d=data.box_type_3d, box_mode_3d=data.box_mode_3d)
    for step in data.pipeline.transforms:
        before = time.perf_counter()
        results = step(results)
        seconds[type(step).__name__] = time.perf_counter() - before
    return results, dict(seconds, sample=time.perf_counter() - start)


def difference(a: dict, b: dict) -> dict[str, float]:
    """Largest absolute difference of two samples in images (their mean too), points, boxes and matrices."""
    values = {}
    for name in ('img', 'points'):
        values[name] = a['inputs'][name], b['inputs'][name]
    values['boxes'] = tuple(sample['data_samples'].gt_instances_3d.bboxes_3d.tensor for sample in (a, b))
    for name in ('img_aug_matrix', 'lidar_aug_matrix', 'lidar2img', 'cam2lidar'):
        values[name] = tuple(np.asarray(sample['data_samples'].metainfo[name]) for sample in (a, b))
    gaps = {name: np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)) for name, (x, y) in values.items()}
    return {'img, mean': float(gaps['img'].mean()), **{name: float(gap.max()) for name, gap in gaps.items()}}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-root', type=Path, default=Path('data/nuscenes'), help='folder with samples/ and infos')
    parser.add_argument('--ann-file', default='nuscenes_infos_train.pkl', help='info file in the data root')
    parser.add_argument('--repeat', type=int, default=15, help='samples timed for each of the two')
    parser.add_argument('--draft', action='store_true', help='decode at half size (changes the pixels)')
    args = parser.parse_args(argv)
    if not (args.data_root / args.ann_file).is_file():
        parser.error(
            f'{args.data_root / args.ann_file} is not there: create the info files with mmdet3d\'s '
            'tools/create_data.py, or give --data-root and --ann-file'
        )
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(1)
    seconds: dict[str, list[dict[str, float]]] = {}
    worst: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        ann_file = with_sweeps(args.data_root / args.ann_file, folder)
        data = {name: dataset(args.data_root, ann_file, steps) for name, steps in pipelines(args.draft).items()}
        for seed in range(-1, args.repeat):  # the first warms the file cache and does not count
            samples = []
            for name in data:
                sample, spent = timed(data[name], max(seed, 0) % len(data[name]), max(seed, 0))
                samples.append(sample)
                seconds.setdefault(name, []).append(spent)
            worst = {key: max(value, worst.get(key, 0.0)) for key, value in difference(*samples).items()}

    table = Table('step', *[f'{name} [ms]' for name in seconds], title=f'median of {args.repeat} samples')
    median = {name: {step: 1e3 * float(np.median([run[step] for run in runs[1:]])) for step in runs[0]} for name, runs in seconds.items()}
    for step in dict.fromkeys(step for steps in median.values() for step in steps if step != 'sample'):
        table.add_row(step, *[f'{steps[step]:.1f}' if step in steps else '' for steps in median.values()])
    table.add_section()
    table.add_row('sample', *[f'{steps["sample"]:.1f}' for steps in median.values()])
    console = Console()
    console.print(table)
    console.print(
        f'{median["reference"]["sample"] / median["ours"]["sample"]:.2f} times faster; largest differences: '
        + ', '.join(f'{key} {value:g}' for key, value in worst.items())
    )


if __name__ == '__main__':
    main()
