"""The registered transforms, data sets and metrics for :mod:`constructors`."""

from __future__ import annotations

import atexit
import functools
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from constructors import Case
from mmdet3d.structures import LiDARInstance3DBoxes, LiDARPoints
from mmengine.dataset import BaseDataset
from PIL import Image

from bevfusion_plugin.datasets.cbgs_dataset import CBGSDataset
from bevfusion_plugin.datasets.custom_3d_dataset import Custom3DDataset
from bevfusion_plugin.datasets.nuscenes_dataset import NuScenesDataset
from bevfusion_plugin.datasets.skip_bad_samples import SkipBadSamples
from bevfusion_plugin.registry import METRICS, TRANSFORMS


class PastesNothing:
    """A database sampler without a database."""

    sampler_dict: dict = {}
    points_loader = None

    def __init__(self, rate: float, sample_groups: dict) -> None:
        self.wanted = {name: int(rate * number) for name, number in sample_groups.items()}

    def sample_all(self, *args: Any, **kwargs: Any) -> None:
        return None


class ThreeCars(BaseDataset):
    METAINFO = dict(classes=('car',))

    def load_data_list(self) -> list[dict]:
        return [dict(number=number) for number in range(3)]

    def get_cat_ids(self, index: int) -> set[int]:
        return {0}


def transform_three(transform: Any, folder: Path) -> None:
    path = str(folder / 'picture.png')
    Image.fromarray(np.full((32, 48, 3), 9, np.uint8)).save(path)
    camera = dict(img_path=path, lidar2cam=np.eye(4).tolist(), cam2img=[[30.0, 0.0, 24.0], [0.0, 30.0, 16.0], [0.0, 0.0, 1.0]])
    for _ in range(3):
        boxes = LiDARInstance3DBoxes(torch.rand(2, 9) + 1, box_dim=9)
        transform(
            dict(
                images=dict(CAM_FRONT=camera),
                img=[np.full((32, 48, 3), 9, np.uint8)] * 2,
                ori_shape=(32, 48),
                points=LiDARPoints(torch.rand(20, 5), points_dim=5, attribute_dims=dict(height=3)),
                plane=np.array([0.0, 0.0, 1.0, 0.0]),
                gt_bboxes=np.zeros((2, 4)),
                gt_bboxes_3d=boxes,
                gt_labels_3d=np.zeros(2, np.int64),
                ann_info=dict(gt_bboxes_3d=boxes, gt_labels_3d=np.zeros(2, np.int64)),
            )
        )


def load_three(data: CBGSDataset, folder: Path) -> None:
    data.full_init()
    for index in range(3):
        data[index]


def load_all(data: BaseDataset, folder: Path) -> None:
    data.full_init()
    for index in range(len(data)):
        data[index] if data.pipeline.transforms and not data.test_mode else data.get_data_info(index)


@functools.cache
def folder_of_infos() -> str:
    """A folder with the info file of three samples."""
    car = dict(
        bbox_3d=[1.0, 2.0, 0.0, 4.0, 2.0, 1.5, 0.0],
        bbox_label_3d=0,
        velocity=[0.0, 0.0],
        num_lidar_pts=9,
        num_radar_pts=0,
        bbox_3d_isvalid=True,
    )
    infos = [
        dict(
            sample_idx=index, token=f'token {index}', lidar_points=dict(lidar_path='cloud.bin', num_pts_feats=5), images={}, instances=[car]
        )
        for index in range(3)
    ]
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    names = NuScenesDataset.METAINFO['classes']
    Path(folder, 'infos.pkl').write_bytes(
        pickle.dumps(dict(metainfo=dict(categories={name: i for i, name in enumerate(names)}), data_list=infos))
    )
    return folder


def score_three(metric: Any, folder: Path) -> None:
    metric.dataset_meta = dict(classes=('car',))
    frame = dict(
        gt_centers=np.ones((1, 3)),
        gt_labels=np.zeros(1, int),
        gt_points=np.full(1, 9),
        centers=np.ones((1, 3)),
        labels=np.zeros(1, int),
        scores=np.full(1, 0.5),
    )
    metric.compute_metrics([frame] * 3)


PIPELINE = [
    dict(type='mmdet3d.LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(type='mmdet3d.Pack3DDetInputs', keys=['gt_bboxes_3d', 'gt_labels_3d']),
]


def keep_three(metric: Any, folder: Path) -> None:
    metric.dataset_meta = dict(classes=('car',), version='v1.0-mini')
    for number in range(3):
        metric.process({}, [dict(pred_instances_3d=dict(scores_3d=torch.rand(2)), pred_instances={}, sample_idx=number)])


def transform_case(name: str, fixed: dict | None = None, **settings: Any) -> Case:
    def build(odd: dict) -> Any:
        if isinstance(odd.get('db_sampler'), dict) and odd['db_sampler']:
            odd = dict(odd, db_sampler=dict(odd['db_sampler'], type=PastesNothing))
        return TRANSFORMS.build(dict(type=f'bevfusion_plugin.{name}', **odd))

    return Case(settings, build, transform_three)


DATA = dict(
    GridMask=transform_case(
        'GridMask', use_h=True, use_w=True, max_epoch=6, rotate=1, offset=False, ratio=0.5, mode=1, prob=0.7, fixed_prob=True
    ),
    ImageAug3D=transform_case(
        'ImageAug3D',
        final_dim=[16, 24],
        resize_lim=[0.4, 0.6],
        bot_pct_lim=[0.0, 0.2],
        rot_lim=[-5.4, 5.4],
        rand_flip=True,
        is_train=True,
        fit_width=False,
    ),
    BEVFusionGlobalRotScaleTrans=transform_case(
        'BEVFusionGlobalRotScaleTrans', rot_range=[-0.78, 0.78], scale_ratio_range=[0.9, 1.1], translation_std=0.5, shift_height=False
    ),
    BEVFusionRandomFlip3D=transform_case('BEVFusionRandomFlip3D'),
    BEVLoadMultiViewImageFromFiles=transform_case(
        'BEVLoadMultiViewImageFromFiles',
        to_float32=False,
        color_type='color',
        num_views=6,
        num_ref_frames=-1,
        test_mode=False,
        set_default_scale=True,
        draft_factor=1,
    ),
    CheckSample=transform_case(
        'CheckSample',
        point_cloud_range=[-54.0, -54.0, -5.0, 54.0, 54.0, 3.0],
        sweeps=False,
        cameras=['CAM_FRONT'],
        leave_out_boxes=False,
        image_modes=['RGB', 'L'],
        backend_args=None,
    ),
    ObjectSample=transform_case(
        'ObjectSample', db_sampler=dict(rate=1.0, sample_groups=dict(car=2)), sample_2d=False, use_ground_plane=False
    ),
    CBGSDataset=Case(
        dict(dataset='three cars', lazy_init=False),
        lambda odd: CBGSDataset(**dict(odd, dataset=ThreeCars() if odd['dataset'] == 'three cars' else odd['dataset'])),
        load_three,
    ),
    SkipBadSamples=Case(
        dict(dataset='three cars', skip_bad_samples=2),
        lambda odd: SkipBadSamples(**dict(odd, dataset=ThreeCars() if odd['dataset'] == 'three cars' else odd['dataset'])),
        load_three,
    ),
    NuScenesDataset=Case(
        dict(
            pipeline=PIPELINE,
            box_type_3d='LiDAR',
            load_type='frame_based',
            modality=dict(use_lidar=True, use_camera=False),
            filter_empty_gt=True,
            test_mode=False,
            with_velocity=True,
            use_valid_flag=False,
            metainfo=dict(classes=['car', 'bus']),
            data_prefix=dict(pts='samples', sweeps='sweeps'),
            default_cam_key=None,
            load_eval_anns=True,
            backend_args=None,
            show_ins_var=False,
            filter_cfg=None,
            indices=None,
            serialize_data=True,
            lazy_init=False,
            max_refetch=3,
        ),
        lambda odd: NuScenesDataset(data_root=folder_of_infos(), ann_file='infos.pkl', **odd),
        load_all,
    ),
    Custom3DDataset=Case(
        dict(
            pipeline=PIPELINE,
            box_type_3d='LiDAR',
            modality=dict(use_lidar=True, use_camera=False),
            filter_empty_gt=True,
            with_velocity=True,
            box_origin=[0.5, 0.5, 0.5],
            metainfo=dict(classes=['car', 'bus']),
            categories=list(NuScenesDataset.METAINFO['classes']),
            data_prefix=dict(pts='samples', sweeps='sweeps'),
        ),
        lambda odd: Custom3DDataset(data_root=folder_of_infos(), ann_file='infos.pkl', **odd),
        load_all,
    ),
    CenterDistanceMetric=Case(
        dict(
            point_cloud_range=[-54.0, -54.0, -5.0, 54.0, 54.0, 3.0],
            min_points=5,
            score_thr=0.3,
            eval_version='detection_cvpr_2019',
            class_range=dict(car=40.0),
            default_range=50.0,
            collect_device='cpu',
            prefix='scores',
        ),
        lambda odd: METRICS.build(dict(type='bevfusion_plugin.CenterDistanceMetric', **odd)),
        score_three,
    ),
    NuScenesMetric=Case(
        dict(
            data_root='data',
            ann_file='infos.pkl',
            metric='bbox',
            modality=dict(use_lidar=True),
            prefix='scores',
            format_only=False,
            jsonfile_prefix='results',
            eval_version='detection_cvpr_2019',
            collect_device='cpu',
            backend_args=None,
        ),
        lambda odd: METRICS.build(dict(type='bevfusion_plugin.NuScenesMetric', **odd)),
        keep_three,
    ),
)
