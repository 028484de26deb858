"""BEVFusion, lidar + camera, with every size small: the recipe of bevfusion_4x4090.py on a CPU, in minutes.

Data        a synthetic nuScenes (tools/create_synthetic_nuscenes.py), or the frame in the folder that the environment variable
            NUSCENES_SAMPLE names (with `--trial`, as tools/demo.py does by itself); neither needs a download.
Batch       4 = 2 processes x 2 samples, one a CPU core, or 1 x 2 x 2 accumulated: A follows from the processes that are there.
Expected    mAP 0.50, NDS 0.44, car AP 0.66 on the two held-out synthetic scenes (measured, one process, seed 0). With two processes 0.43,
            0.41, 0.64, measured before random numbers followed from each sample: so much a training this short varies. They say
            nothing about nuScenes, and the orientation errors are those of boxes that look the same from both ends.

    make demo
"""

_base_ = ['./_base_/default_runtime.py', './_base_/nuscenes_lidar_cam.py', './_base_/bevfusion_lidar_cam_model.py']

# What to change
synthetic = 'data/synthetic_nuscenes'
data_root = '{{$NUSCENES_SAMPLE:data/synthetic_nuscenes}}'
source_width = 400 if data_root == synthetic else 1600  # pixels of the recorded images
samples_per_gpu = 2
total_batch_size = 4  # what lr was tuned for
lr = 4e-3
max_epochs = 3  # of 320 micro-batches: class-balanced sampling draws each of the 64 samples ten times

# Sizes
demo_range = [-36.0, -36.0, -5.0, 36.0, 36.0, 3.0]  # metres; the synthetic objects stay within 30 of the car's path
image_size = [64, 192]  # height, width, multiples of 32; full size: 256, 704
feature_size = [8, 24]  # image_size / 8
voxel_size = [0.225, 0.225, 0.2]
grid_size = [320, 320, 41]  # 72 m / 0.225 m = 320; 8 / 0.2 + 1 = 41
bev_cell = 0.9  # metres, of the view transform: 80 cells, halved to the head's 320 / 8 = 40
depth_bins = [1.0, 51.0, 1.0]  # to the corner of the range
encoder_channels = ((8, 16), (16, 24), (24, 32), (32,))  # one residual block a stage; full size: two
encoder_paddings = ((0, 1), (0, 1), (0, (1, 1, 0)), (0,))
camera_channels, bev_channels, hidden_channels = 32, 64, 64
num_proposals = 100

bev_bound = [demo_range[0], demo_range[3], bev_cell]
resize = image_size[1] / source_width  # full size: 704 / 1600 = 0.44, of which 0.38 to 0.55 are 0.864 to 1.25 and 0.48 is 1.09
heads = dict(embed_dims=hidden_channels, num_heads=4, dropout=0.0)

model = dict(
    data_preprocessor=dict(voxelize_cfg=dict(point_cloud_range=demo_range, voxel_size=voxel_size, max_voxels=[30000, 30000])),
    pts_middle_encoder=dict(
        sparse_shape=grid_size, base_channels=8, output_channels=32, encoder_channels=encoder_channels, encoder_paddings=encoder_paddings
    ),
    pts_backbone=dict(in_channels=bev_channels, out_channels=[32, 64], layer_nums=[2, 2]),
    pts_neck=dict(in_channels=[32, 64], out_channels=[32, 32]),
    img_backbone=dict(embed_dims=24, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], window_size=4, mlp_ratio=2, drop_path_rate=0.0),
    img_neck=dict(in_channels=[48, 96, 192], out_channels=48),
    view_transform=dict(
        in_channels=48,
        out_channels=camera_channels,
        image_size=image_size,
        feature_size=feature_size,
        xbound=bev_bound,
        ybound=bev_bound,
        dbound=depth_bins,
    ),
    fusion_layer=dict(in_channels=[camera_channels, bev_channels], out_channels=bev_channels),
    bbox_head=dict(
        num_proposals=num_proposals,
        in_channels=64,
        hidden_channel=hidden_channels,
        decoder_layer=dict(
            self_attn_cfg=heads,
            cross_attn_cfg=heads,
            ffn_cfg=dict(embed_dims=hidden_channels, feedforward_channels=128, ffn_drop=0.0),
            pos_encoding_cfg=dict(num_pos_feats=hidden_channels),
        ),
        train_cfg=dict(point_cloud_range=demo_range, grid_size=grid_size, voxel_size=voxel_size),
        test_cfg=dict(pc_range=demo_range[:2], grid_size=grid_size, voxel_size=voxel_size[:2]),
        bbox_coder=dict(pc_range=demo_range[:2], voxel_size=voxel_size[:2]),
    ),
)

lidar_changes = {
    'bevfusion_plugin.CheckSample': dict(point_cloud_range=demo_range),
    'LoadPointsFromMultiSweeps': dict(sweeps_num=1),  # one of the two that the synthetic data records: time counts here
    'PointsRangeFilter': dict(point_cloud_range=demo_range),
    'ObjectRangeFilter': dict(point_cloud_range=demo_range),
}
train_changes = {**lidar_changes, 'bevfusion_plugin.ImageAug3D': dict(final_dim=image_size, resize_lim=[0.864 * resize, 1.25 * resize])}
test_changes = {**lidar_changes, 'bevfusion_plugin.ImageAug3D': dict(final_dim=image_size, resize_lim=[1.09 * resize, 1.09 * resize])}
train_pipeline = [dict(step, **train_changes.get(step['type'], {})) for step in _base_.train_pipeline]
test_pipeline = [dict(step, **test_changes.get(step['type'], {})) for step in _base_.test_pipeline]
metainfo = dict(version='v1.0-mini')  # without it the official metric takes the splits of trainval
train_dataloader = dict(
    batch_size=samples_per_gpu,
    num_workers=1,
    pin_memory=False,  # a CPU needs no copy
    dataset=dict(dataset=dict(data_root=data_root, pipeline=train_pipeline, metainfo=metainfo)),
)
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root, pipeline=test_pipeline, metainfo=metainfo))
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root, ann_file=data_root + '/nuscenes_infos_val.pkl')
test_evaluator = val_evaluator

param_scheduler = [
    dict(
        type='bevfusion_plugin.OneCycleParamScheduler',
        pct_start=0.3,
        div_factor=10.0,
        moms=(0.95, 0.85),
        begin=0,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
optim_wrapper = dict(
    type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
    constructor='bevfusion_plugin.OpenPCDetOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.99), weight_decay=0.01),
    accumulative_counts='auto',
    total_batch_size=total_batch_size,
    dtype='float32',
    clip_grad=dict(max_norm=35, norm_type=2),
)
auto_scale_lr = dict(enable=False, base_batch_size=total_batch_size, rule='linear')
env_cfg = dict(dist_cfg=dict(backend='gloo'))  # processes on CPUs
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=1, max_keep_ckpts=2))
# A training this short gives low scores.
custom_hooks = _base_.custom_hooks + [dict(type='bevfusion_plugin.DetectionPictureHook', max_samples=4, score_thr=0.15)]
