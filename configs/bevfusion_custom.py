"""BEVFusion on data of your own: any classes, ranges and point features, one camera to many of any size, or none. See docs/custom_data.md.

Copy this file beside the others, change the first part, and look at the data before you train on it:
    python tools/check_data.py configs/bevfusion_custom.py
    python tools/browse_dataset.py configs/bevfusion_custom.py

Batch       32, what the two learning rates below were tuned for. A follows from the GPUs: 1 x 2 x A16, 2 x 2 x A8, 4 x 2 x A4, 8 x 2 x A2.
Stages      first `cameras = []`, the lidar alone; then with the cameras and its checkpoint as `lidar_checkpoint`.
Expected    Not yet measured: it depends on the data. The recipe is that of configs/bevfusion_lidar.py and configs/bevfusion.py.

    python tools/train.py configs/bevfusion_custom.py
"""

_base_ = ['./_base_/default_runtime.py', './_base_/bevfusion_lidar_cam_model.py']

# What to change: the data
data_root = 'data/custom'
train_infos = 'custom_infos_train.pkl'  # mmdet3d's info format, below data_root
val_infos = 'custom_infos_val.pkl'
class_names = ['car', 'pedestrian', 'cyclist']  # in the order of their labels in the info files
with_velocity = False  # whether each box of the info files has a velocity, to be learned
lidar_features = 4  # numbers a point in the point files: x, y, z, intensity
cameras = ['CAM_FRONT']  # names in the info files; []: lidar alone
data_prefix = dict(pts='points', CAM_FRONT='images/CAM_FRONT')  # below data_root: what paths of the info files go on from
dataset = dict(type='bevfusion_plugin.Custom3DDataset', with_velocity=with_velocity)  # KITTI's infos: dict(type='KittiDataset')

# What to change: the network's view
point_cloud_range = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]  # metres, lidar frame: lower corner, upper corner
voxel_size = [0.075, 0.075, 0.2]  # metres; along x and y the range must be a multiple of 8 voxels, along z 24 voxels or more
image_size = [256, 704]  # height, width of the network's input, multiples of 32: about a camera's width, and the lower part of its height

# What to change: the training
lidar_checkpoint = None  # of the first stage: 'work_dirs/.../epoch_20.pth'
image_checkpoint = None  # 'checkpoints/swint-nuimages-pretrained.pth', see README
samples_per_gpu = 2
num_workers = 4  # a GPU
lr = 2e-4 if lidar_checkpoint else 1e-3  # the peak; the reference's with and without a first stage
max_epochs = 6 if lidar_checkpoint else 20
base_batch_size = 32  # what lr was tuned for
total_batch_size = base_batch_size  # on any number of GPUs: accumulative_counts follows from it

# What follows from it
grid_size = [round((point_cloud_range[axis + 3] - point_cloud_range[axis]) / voxel_size[axis]) for axis in range(3)]
if grid_size[0] % 8 or grid_size[1] % 8 or grid_size[2] < 24:
    raise ValueError(
        f'point_cloud_range {point_cloud_range} with voxel_size {voxel_size} makes {grid_size} voxels: x and y must be '
        'multiples of 8, z at least 24; change point_cloud_range or voxel_size'
    )
sparse_shape = [grid_size[0], grid_size[1], grid_size[2] + 1]
heights = (grid_size[2] // 4 - 2) // 4  # of the encoder's map, z halved four times, the last two without padding: 40 voxels make 2
lidar_channels = 128 * heights
# the view transform's cells: half the encoder's stride of 8 voxels
xbound = [point_cloud_range[0], point_cloud_range[3], 4 * voxel_size[0]]
ybound = [point_cloud_range[1], point_cloud_range[4], 4 * voxel_size[1]]
farthest = -(-1.1 * max(abs(corner) for corner in point_cloud_range[:2] + point_cloud_range[3:5]) // 1)  # metres, rounded up
grid = dict(grid_size=sparse_shape, voxel_size=voxel_size, dataset='custom')  # a name that the head has no special rules for
margins = [7.2, 7.2, 5.0]  # metres; boxes centred farther outside of the range are dropped, as in the reference
code_size = 10 if with_velocity else 8
velocity = dict(vel=[2, 2]) if with_velocity else dict()

camera_parts = dict(
    img_backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=image_checkpoint) if image_checkpoint else None),
    view_transform=dict(
        image_size=image_size,
        feature_size=[image_size[0] // 8, image_size[1] // 8],
        xbound=xbound,
        ybound=ybound,
        dbound=[1.0, farthest, 0.5],
    ),
    fusion_layer=dict(in_channels=[80, lidar_channels], out_channels=lidar_channels),
)
no_camera_parts = dict(img_backbone=None, img_neck=None, view_transform=None, fusion_layer=None)
model = dict(
    data_preprocessor=dict(voxelize_cfg=dict(point_cloud_range=point_cloud_range, voxel_size=voxel_size)),
    pts_voxel_encoder=dict(num_features=lidar_features),
    pts_middle_encoder=dict(in_channels=lidar_features, sparse_shape=sparse_shape),
    pts_backbone=dict(in_channels=lidar_channels),  # with cameras too: the first stage's weights fit
    bbox_head=dict(
        num_classes=len(class_names),
        common_heads=dict(_delete_=True, center=[2, 2], height=[1, 2], dim=[3, 2], rot=[2, 2], **velocity),
        train_cfg=dict(point_cloud_range=point_cloud_range, code_weights=[1.0] * 8 + [0.2] * (code_size - 8), **grid),
        test_cfg=dict(pc_range=point_cloud_range[:2], **dict(grid, voxel_size=voxel_size[:2])),
        bbox_coder=dict(
            code_size=code_size,
            pc_range=point_cloud_range[:2],
            voxel_size=voxel_size[:2],
            post_center_range=[point_cloud_range[axis] - margins[axis] for axis in range(3)]
            + [point_cloud_range[axis + 3] + margins[axis] for axis in range(3)],
        ),
    ),
    **(camera_parts if cameras else no_camera_parts),
)
load_from = lidar_checkpoint

# Data
modality = dict(use_lidar=True, use_camera=bool(cameras))
load = [
    dict(type='bevfusion_plugin.CheckSample', point_cloud_range=point_cloud_range, sweeps=False, cameras=cameras),
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=lidar_features, use_dim=lidar_features),
]
if cameras:
    load.insert(1, dict(type='bevfusion_plugin.BEVLoadMultiViewImageFromFiles', color_type='color', cameras=cameras))
image_aug = dict(type='bevfusion_plugin.ImageAug3D', final_dim=image_size, fit_width=True, bot_pct_lim=[0.0, 0.0])
augment_images = dict(image_aug, resize_lim=[0.864, 1.25], rot_lim=[-5.4, 5.4], rand_flip=True, is_train=True)  # degrees
fit_images = dict(image_aug, resize_lim=[1.09, 1.09], rot_lim=[0.0, 0.0], rand_flip=False, is_train=False)
keys = ['points', 'gt_bboxes_3d', 'gt_labels_3d'] + ['img'] * bool(cameras)
meta_keys = [
    'box_type_3d',
    'box_mode_3d',
    'sample_idx',
    'lidar_path',
    'num_pts_feats',
    'img_path',
    'cam2img',
    'ori_cam2img',
    'lidar2cam',
    'lidar2img',
    'cam2lidar',
    'img_aug_matrix',
    'lidar_aug_matrix',
    'transformation_3d_flow',
    'pcd_rotation',
    'pcd_scale_factor',
    'pcd_trans',
    'pcd_horizontal_flip',
    'pcd_vertical_flip',
]
train_pipeline = (
    load
    + [dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True)]
    + [augment_images] * bool(cameras)
    + [
        dict(
            type='bevfusion_plugin.BEVFusionGlobalRotScaleTrans',
            scale_ratio_range=[0.9, 1.1],
            rot_range=[-0.78539816, 0.78539816],  # +-45 degrees
            translation_std=0.5,
        ),
        dict(type='bevfusion_plugin.BEVFusionRandomFlip3D'),
        dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
        dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
        dict(type='ObjectNameFilter', classes=class_names),
        dict(type='PointShuffle'),
        dict(type='Pack3DDetInputs', keys=keys, meta_keys=meta_keys),
    ]
)
test_pipeline = (
    load
    + [fit_images] * bool(cameras)
    + [dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range), dict(type='Pack3DDetInputs', keys=keys, meta_keys=meta_keys)]
)
folders = {name: data_prefix[name] for name in ['pts', *cameras]}
dataset = dict(
    dataset, data_root=data_root, data_prefix=folders, metainfo=dict(classes=class_names), modality=modality, box_type_3d='LiDAR'
)
train_dataloader = dict(
    batch_size=samples_per_gpu,
    num_workers=num_workers,
    persistent_workers=False,
    pin_memory=True,
    sampler=dict(type='bevfusion_plugin.SeekableSampler', shuffle=True, total_batch_size=total_batch_size),
    dataset=dict(dataset, ann_file=train_infos, pipeline=train_pipeline, test_mode=False),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(dataset, ann_file=val_infos, pipeline=test_pipeline, test_mode=True),
)
val_evaluator = dict(type='bevfusion_plugin.CenterDistanceMetric', point_cloud_range=point_cloud_range)
test_dataloader, test_evaluator = val_dataloader, val_evaluator
val_cfg = test_cfg = dict()

# Training
param_scheduler = [
    dict(
        type='bevfusion_plugin.OneCycleParamScheduler',
        pct_start=0.4,
        div_factor=10.0,
        moms=(0.9, 0.9 * 0.85 / 0.95),
        begin=0,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
optim_wrapper = dict(
    type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
    constructor='bevfusion_plugin.OpenPCDetOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.01),
    accumulative_counts='auto',
    total_batch_size=total_batch_size,
    **({} if cameras else dict(dtype='float32')),  # sparse convolutions alone: as configs/bevfusion_lidar.py has them
    loss_scale='dynamic',
    clip_grad=dict(max_norm=35, norm_type=2),
)
auto_scale_lr = dict(enable=False, base_batch_size=base_batch_size, rule='linear')
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
