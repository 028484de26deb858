# BEVFusion's lidar branch at full size: 0.075 m voxels, 108 m x 108 m.
model_range = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
voxel_size = [0.075, 0.075, 0.2]
grid_size = [1440, 1440, 41]  # 108 / 0.075 = 1440; 8 / 0.2 + 1 = 41
out_size_factor = 8  # three strides of 2: 1440 / 8 = 180 cells a side
num_classes = 10

model = dict(
    type='bevfusion_plugin.BEVFusion',
    # Activation checkpointing of cameras and lidar encoder. Off: it costs a second forward pass of them. True where a batch does not
    # fit (tools/plan.py CONFIG --gpu-memory 24 --with-cp): same gradients, same BatchNorm statistics.
    with_cp=False,
    channels_last=False,  # off: nobody has timed it on a GPU with this model (benchmarks/gpu.py --channels-last does)
    compiled=False,  # off: likewise, and it takes minutes at the start; `tools/train.py --compile` switches it on
    data_preprocessor=dict(
        type='Det3DDataPreprocessor',
        pad_size_divisor=32,
        non_blocking=True,  # copies from pinned memory (train_dataloader.pin_memory) need not be waited for
        voxelize_cfg=dict(
            max_num_points=10,
            point_cloud_range=model_range,
            voxel_size=voxel_size,
            max_voxels=[120000, 160000],  # training, testing
            voxelize_reduce=True,
        ),
    ),
    pts_voxel_encoder=dict(type='HardSimpleVFE', num_features=5),
    pts_middle_encoder=dict(
        type='bevfusion_plugin.BEVFusionSparseEncoder',
        in_channels=5,
        sparse_shape=grid_size,
        order=('conv', 'norm', 'act'),
        norm_cfg=dict(type='BN1d', eps=0.001, momentum=0.01),
        encoder_channels=((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128)),
        encoder_paddings=((0, 0, 1), (0, 0, 1), (0, 0, (1, 1, 0)), (0, 0)),
        block_type='basicblock',
    ),
    pts_backbone=dict(
        type='SECOND',
        in_channels=256,
        out_channels=[128, 256],
        layer_nums=[5, 5],
        layer_strides=[1, 2],
        norm_cfg=dict(type='BN', eps=0.001, momentum=0.01),
        conv_cfg=dict(type='Conv2d', bias=False),
    ),
    pts_neck=dict(
        type='SECONDFPN',
        in_channels=[128, 256],
        out_channels=[256, 256],
        upsample_strides=[1, 2],
        norm_cfg=dict(type='BN', eps=0.001, momentum=0.01),
        upsample_cfg=dict(type='deconv', bias=False),
        use_conv_for_no_stride=True,
    ),
    bbox_head=dict(
        type='bevfusion_plugin.TransFusionHead',
        num_proposals=200,
        auxiliary=True,
        in_channels=512,
        hidden_channel=128,
        num_classes=num_classes,
        nms_kernel_size=3,
        bn_momentum=0.1,
        num_decoder_layers=1,
        decoder_layer=dict(
            type='bevfusion_plugin.TransformerDecoderLayer',
            self_attn_cfg=dict(embed_dims=128, num_heads=8, dropout=0.1),
            cross_attn_cfg=dict(embed_dims=128, num_heads=8, dropout=0.1),
            ffn_cfg=dict(embed_dims=128, feedforward_channels=256, num_fcs=2, ffn_drop=0.1, act_cfg=dict(type='ReLU', inplace=True)),
            norm_cfg=dict(type='LN'),
            pos_encoding_cfg=dict(input_channel=2, num_pos_feats=128),
        ),
        train_cfg=dict(
            dataset='nuScenes',
            point_cloud_range=model_range,
            grid_size=grid_size,
            voxel_size=voxel_size,
            out_size_factor=out_size_factor,
            gaussian_overlap=0.1,
            min_radius=2,
            pos_weight=-1,
            code_weights=[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2],
            assigner=dict(
                type='bevfusion_plugin.HungarianAssigner3D',
                iou_calculator=dict(type='BboxOverlaps3D', coordinate='lidar'),
                cls_cost=dict(type='mmdet.FocalLossCost', gamma=2.0, alpha=0.25, weight=0.15),
                reg_cost=dict(type='bevfusion_plugin.BBoxBEVL1Cost', weight=0.25),
                iou_cost=dict(type='bevfusion_plugin.IoU3DCost', weight=0.25),
            ),
        ),
        test_cfg=dict(
            dataset='nuScenes',
            grid_size=grid_size,
            out_size_factor=out_size_factor,
            voxel_size=voxel_size[:2],
            pc_range=model_range[:2],
            nms_type=None,
        ),
        common_heads=dict(center=[2, 2], height=[1, 2], dim=[3, 2], rot=[2, 2], vel=[2, 2]),
        bbox_coder=dict(
            type='bevfusion_plugin.TransFusionBBoxCoder',
            pc_range=model_range[:2],
            post_center_range=[-61.2, -61.2, -10.0, 61.2, 61.2, 10.0],
            score_threshold=0.0,
            out_size_factor=out_size_factor,
            voxel_size=voxel_size[:2],
            code_size=10,
        ),
        loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, reduction='mean', loss_weight=1.0),
        loss_heatmap=dict(type='mmdet.GaussianFocalLoss', reduction='mean', loss_weight=1.0),
        loss_bbox=dict(type='mmdet.L1Loss', reduction='mean', loss_weight=0.25),
    ),
)
