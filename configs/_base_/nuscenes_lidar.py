# nuScenes, lidar only: loading, augmentation with pasted objects, class-balanced sampling, official metric.
# Each recipe fills in data_root and batch_size.
class_names = ['car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier', 'motorcycle', 'bicycle', 'pedestrian', 'traffic_cone']
metainfo = dict(classes=class_names)
point_cloud_range = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
data_prefix = dict(pts='samples/LIDAR_TOP', sweeps='sweeps/LIDAR_TOP')
input_modality = dict(use_lidar=True, use_camera=False)

# What every sample tells of itself, and of what moved its points: for the model, and for mmdet3d's own tools.
sample_keys = [
    'box_type_3d',
    'box_mode_3d',
    'sample_idx',
    'lidar_path',
    'num_pts_feats',
    'transformation_3d_flow',
    'pcd_rotation',
    'pcd_scale_factor',
    'pcd_trans',
    'pcd_horizontal_flip',
    'pcd_vertical_flip',
]

# First in every pipeline: names the file and the sample of damaged data before anything is made of it.
check_sample = dict(type='bevfusion_plugin.CheckSample', point_cloud_range=point_cloud_range, cameras=[])
load_points = dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5)
load_sweeps = dict(type='LoadPointsFromMultiSweeps', sweeps_num=9, load_dim=5, use_dim=5, pad_empty_sweeps=True, remove_close=True)

paste_objects = dict(
    type='bevfusion_plugin.ObjectSample',
    db_sampler=dict(
        rate=1.0,
        prepare=dict(
            filter_by_difficulty=[-1],
            filter_by_min_points=dict(
                car=5, truck=5, bus=5, trailer=5, construction_vehicle=5, traffic_cone=5, barrier=5, motorcycle=5, bicycle=5, pedestrian=5
            ),
        ),
        classes=class_names,
        sample_groups=dict(
            car=2, truck=3, construction_vehicle=7, bus=4, trailer=6, barrier=2, motorcycle=6, bicycle=6, pedestrian=2, traffic_cone=2
        ),
        points_loader=dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=[0, 1, 2, 3, 4]),
    ),
)

train_pipeline = [
    check_sample,
    load_points,
    load_sweeps,
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True, with_attr_label=False),
    paste_objects,
    dict(
        type='GlobalRotScaleTrans',
        rot_range=[-0.78539816, 0.78539816],  # +-45 degrees
        scale_ratio_range=[0.9, 1.1],
        translation_std=[0.5, 0.5, 0.5],
    ),
    dict(type='bevfusion_plugin.BEVFusionRandomFlip3D'),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectNameFilter', classes=class_names),
    dict(type='PointShuffle'),
    dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'], meta_keys=sample_keys),
]
test_pipeline = [
    check_sample,
    load_points,
    dict(load_sweeps, test_mode=True),  # the nearest sweeps, not a random choice: two tests give one number
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'], meta_keys=sample_keys),
]

# Workers a GPU: one loads a lidar + camera sample in about 0.32 s (benchmarks/pipeline.py), 4 load 12 a second, and 4 GPUs keep
# 4 x 4 = 16 cores busy at most. Each has 2 micro-batches ready: 4 x 2 x 3 samples x 18 MB = 0.4 GB a GPU.
train_dataloader = dict(
    num_workers=4,
    persistent_workers=False,  # forked anew every epoch, they share the infos
    prefetch_factor=2,
    pin_memory=True,  # on: the copy to the GPU runs beside the computation; it costs page-locked memory, the 0.4 GB above
    sampler=dict(type='bevfusion_plugin.SeekableSampler', shuffle=True),
    dataset=dict(
        type='bevfusion_plugin.CBGSDataset',
        dataset=dict(
            type='bevfusion_plugin.NuScenesDataset',
            ann_file='nuscenes_infos_train.pkl',
            pipeline=train_pipeline,
            metainfo=metainfo,
            modality=input_modality,
            data_prefix=data_prefix,
            use_valid_flag=True,
            test_mode=False,
            box_type_3d='LiDAR',
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='bevfusion_plugin.NuScenesDataset',
        ann_file='nuscenes_infos_val.pkl',
        pipeline=test_pipeline,
        metainfo=metainfo,
        modality=input_modality,
        data_prefix=data_prefix,
        test_mode=True,
        box_type_3d='LiDAR',
    ),
)
val_evaluator = dict(type='bevfusion_plugin.NuScenesMetric', metric='bbox')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
