"""mmdetection3d's projects/BEVFusion as configs: 8 GPUs x 4 samples, what the doctor's rules read of it, values as published."""

from __future__ import annotations

import copy

from mmengine.config import Config

CLASSES = ['car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier', 'motorcycle', 'bicycle', 'pedestrian', 'traffic_cone']
RANGE = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
VOXEL = [0.075, 0.075, 0.2]
GRID = [1440, 1440, 41]
MATRICES = ['cam2img', 'ori_cam2img', 'lidar2cam', 'lidar2img', 'cam2lidar', 'ori_lidar2img', 'img_aug_matrix', 'lidar_aug_matrix']

LOAD = [
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
    dict(type='LoadPointsFromMultiSweeps', sweeps_num=9, load_dim=5, use_dim=5, pad_empty_sweeps=True, remove_close=True),
]
IMAGES = [dict(type='BEVLoadMultiViewImageFromFiles', to_float32=True, color_type='color')]
BOXES = [dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True, with_attr_label=False)]
FILTERS = [dict(type=name, point_cloud_range=RANGE) for name in ('PointsRangeFilter', 'ObjectRangeFilter')]
PASTE = dict(
    type='ObjectSample',
    db_sampler=dict(data_root='data/nuscenes/', info_path='data/nuscenes/nuscenes_dbinfos_train.pkl', rate=1.0, classes=CLASSES),
)


def image_aug(train: bool) -> dict:
    return dict(
        type='ImageAug3D',
        final_dim=[256, 704],
        resize_lim=[0.38, 0.55] if train else [0.48, 0.48],
        bot_pct_lim=[0.0, 0.0],
        rot_lim=[-5.4, 5.4] if train else [0.0, 0.0],
        rand_flip=train,
        is_train=train,
    )


def pack(*meta_keys: str) -> dict:
    return dict(
        type='Pack3DDetInputs',
        keys=['points', 'img', 'gt_bboxes_3d', 'gt_labels_3d'],
        meta_keys=[*meta_keys, 'box_type_3d', 'sample_idx', 'lidar_path', 'num_pts_feats'],
    )


def loader(pipeline: list, train: bool) -> dict:
    dataset = dict(
        type='NuScenesDataset',
        data_root='data/nuscenes/',
        ann_file=f'nuscenes_infos_{"train" if train else "val"}.pkl',
        pipeline=pipeline,
        metainfo=dict(classes=CLASSES),
        use_valid_flag=True,
        test_mode=not train,
        box_type_3d='LiDAR',
    )
    if train:
        dataset = dict(type='CBGSDataset', dataset=dataset)
    return dict(batch_size=4 if train else 1, num_workers=4, persistent_workers=True, dataset=dataset)


def cosine(kind: str, begin: float, end: float, **eta_min: float) -> dict:
    return dict(
        type=f'CosineAnnealing{kind}', T_max=end - begin, begin=begin, end=end, by_epoch=True, convert_to_iter_based=True, **eta_min
    )


def lidar_model() -> dict:
    places = dict(point_cloud_range=RANGE, grid_size=GRID, voxel_size=VOXEL, out_size_factor=8)
    return dict(
        type='BEVFusion',
        data_preprocessor=dict(
            type='Det3DDataPreprocessor',
            voxelize_cfg=dict(
                max_num_points=10, point_cloud_range=RANGE, voxel_size=VOXEL, max_voxels=[120000, 160000], voxelize_reduce=True
            ),
        ),
        pts_voxel_encoder=dict(type='HardSimpleVFE', num_features=5),
        pts_middle_encoder=dict(
            type='BEVFusionSparseEncoder',
            in_channels=5,
            sparse_shape=GRID,
            norm_cfg=dict(type='BN1d', eps=0.001, momentum=0.01),
            encoder_channels=((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128)),
            block_type='basicblock',
        ),
        pts_backbone=dict(type='SECOND', layer_strides=[1, 2], norm_cfg=dict(type='BN', eps=0.001, momentum=0.01)),
        pts_neck=dict(type='SECONDFPN', upsample_strides=[1, 2], norm_cfg=dict(type='BN', eps=0.001, momentum=0.01)),
        bbox_head=dict(
            type='TransFusionHead',
            train_cfg=dict(places),
            bbox_coder=dict(out_size_factor=8, voxel_size=VOXEL[:2], pc_range=RANGE[:2]),
            test_cfg=dict(grid_size=GRID, out_size_factor=8, voxel_size=VOXEL[:2], pc_range=RANGE[:2]),
        ),
    )


def runtime(epochs: int, lr: float, schedulers: list) -> dict:
    return dict(
        default_scope='mmdet3d',
        custom_imports=dict(imports=['projects.BEVFusion.bevfusion'], allow_failed_imports=True),
        optim_wrapper=dict(
            type='OptimWrapper', optimizer=dict(type='AdamW', lr=lr, weight_decay=0.01), clip_grad=dict(max_norm=35, norm_type=2)
        ),
        param_scheduler=schedulers,
        auto_scale_lr=dict(enable=False, base_batch_size=32),
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1 if epochs == 6 else 5),
        val_cfg=dict(),
        test_cfg=dict(),
        val_evaluator=dict(type='NuScenesMetric', data_root='data/nuscenes/', ann_file='data/nuscenes/nuscenes_infos_val.pkl'),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        env_cfg=dict(dist_cfg=dict(backend='nccl')),
    )


def reference_lidar() -> Config:
    """bevfusion_lidar_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py: target 64.9 mAP / 69.6 NDS."""
    train = [
        *LOAD,
        *BOXES,
        PASTE,
        dict(type='GlobalRotScaleTrans', rot_range=[-0.785, 0.785], scale_ratio_range=[0.9, 1.1], translation_std=[0.5, 0.5, 0.5]),
        dict(type='BEVFusionRandomFlip3D'),
        *FILTERS,
        pack(),
    ]
    test = [*LOAD, FILTERS[0], pack()]
    schedulers = [
        cosine('LR', 0, 8, eta_min=1e-3),
        cosine('LR', 8, 20, eta_min=1e-8),
        cosine('Momentum', 0, 8, eta_min=0.85 / 0.95),
        cosine('Momentum', 8, 20, eta_min=1),
    ]
    cfg = dict(
        runtime(20, 1e-4, schedulers),
        model=lidar_model(),
        train_dataloader=loader(train, True),
        val_dataloader=loader(test, False),
        test_dataloader=loader(test, False),
        custom_hooks=[dict(type='DisableObjectSampleHook', disable_after_epoch=15)],
    )
    return Config(copy.deepcopy(cfg), format_python_code=False)


def reference_fusion() -> Config:
    """bevfusion_lidar-cam_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py: target 68.6 mAP / 71.4 NDS."""
    model = dict(
        lidar_model(),
        img_backbone=dict(
            type='mmdet.SwinTransformer',
            depths=[2, 2, 6, 2],
            out_indices=[1, 2, 3],
            with_cp=False,
            convert_weights=True,
            init_cfg=dict(type='Pretrained', checkpoint='https://example.org/swint-nuimages-pretrained.pth'),
        ),
        img_neck=dict(type='GeneralizedLSSFPN', norm_cfg=dict(type='BN2d', requires_grad=True)),
        view_transform=dict(
            type='DepthLSSTransform',
            image_size=[256, 704],
            feature_size=[32, 88],
            xbound=[-54.0, 54.0, 0.3],
            ybound=[-54.0, 54.0, 0.3],
            zbound=[-10.0, 10.0, 20.0],
            dbound=[1.0, 60.0, 0.5],
            downsample=2,
        ),
        fusion_layer=dict(type='ConvFuser', in_channels=[80, 256], out_channels=256),
    )
    train = [
        *IMAGES,
        *LOAD,
        *BOXES,
        image_aug(True),
        dict(type='BEVFusionGlobalRotScaleTrans', scale_ratio_range=[0.9, 1.1], rot_range=[-0.785, 0.785], translation_std=0.5),
        dict(type='BEVFusionRandomFlip3D'),
        *FILTERS,
        pack(*MATRICES),
    ]
    test = [*IMAGES, *LOAD, image_aug(False), FILTERS[0], pack(*MATRICES)]
    schedulers = [
        dict(type='LinearLR', start_factor=0.33333333, by_epoch=False, begin=0, end=500),
        dict(cosine('LR', 0, 6, eta_min_ratio=1e-4)),
        cosine('Momentum', 0, 2.4, eta_min=0.85 / 0.95),
        cosine('Momentum', 2.4, 6, eta_min=1),
    ]
    cfg = dict(
        runtime(6, 2e-4, schedulers),
        model=model,
        train_dataloader=loader(train, True),
        val_dataloader=loader(test, False),
        test_dataloader=loader(test, False),
        load_from='checkpoints/bevfusion_lidar.pth',
    )
    return Config(copy.deepcopy(cfg), format_python_code=False)
