# nuScenes, lidar and six cameras. No objects are pasted: they would be seen by the lidar and not by the cameras.
# Each recipe fills in data_root and batch_size.
_base_ = './nuscenes_lidar.py'

class_names = _base_.class_names
point_cloud_range = _base_.point_cloud_range
final_dim = [256, 704]  # height, width of the network's input
input_modality = dict(use_lidar=True, use_camera=True)
data_prefix = dict(
    CAM_FRONT='samples/CAM_FRONT',
    CAM_FRONT_LEFT='samples/CAM_FRONT_LEFT',
    CAM_FRONT_RIGHT='samples/CAM_FRONT_RIGHT',
    CAM_BACK='samples/CAM_BACK',
    CAM_BACK_LEFT='samples/CAM_BACK_LEFT',
    CAM_BACK_RIGHT='samples/CAM_BACK_RIGHT',
)

check_sample = dict(type='bevfusion_plugin.CheckSample', point_cloud_range=point_cloud_range)
load_images = dict(type='bevfusion_plugin.BEVLoadMultiViewImageFromFiles', color_type='color')
matrix_keys = ['cam2img', 'ori_cam2img', 'lidar2cam', 'lidar2img', 'cam2lidar', 'ori_lidar2img', 'img_aug_matrix', 'lidar_aug_matrix']
sample_keys = _base_.sample_keys + ['img_path']

train_pipeline = [
    check_sample,
    load_images,
    _base_.load_points,
    _base_.load_sweeps,
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True, with_attr_label=False),
    dict(
        type='bevfusion_plugin.ImageAug3D',
        final_dim=final_dim,
        resize_lim=[0.38, 0.55],
        bot_pct_lim=[0.0, 0.0],
        rot_lim=[-5.4, 5.4],  # degrees
        rand_flip=True,
        is_train=True,
    ),
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
    dict(type='Pack3DDetInputs', keys=['points', 'img', 'gt_bboxes_3d', 'gt_labels_3d'], meta_keys=matrix_keys + sample_keys),
]
test_pipeline = [
    check_sample,
    load_images,
    _base_.load_points,
    dict(_base_.load_sweeps, test_mode=True),  # the nearest sweeps, not a random choice: two tests give one number
    dict(
        type='bevfusion_plugin.ImageAug3D',
        final_dim=final_dim,
        resize_lim=[0.48, 0.48],
        bot_pct_lim=[0.0, 0.0],
        rot_lim=[0.0, 0.0],
        rand_flip=False,
        is_train=False,
    ),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='Pack3DDetInputs', keys=['img', 'points', 'gt_bboxes_3d', 'gt_labels_3d'], meta_keys=matrix_keys + sample_keys),
]

train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline, modality=input_modality, data_prefix=data_prefix)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, modality=input_modality, data_prefix=data_prefix))
test_dataloader = val_dataloader
