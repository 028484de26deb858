# The camera branch and the fuser, on top of the lidar model: 80 + 256 channels on 180 x 180 cells.
_base_ = './bevfusion_lidar_model.py'

image_size = [256, 704]  # height, width of the network's input
feature_size = [32, 88]  # image_size / 8

model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=False),  # images are loaded as RGB
    img_backbone=dict(
        type='bevfusion_plugin.SwinTransformer',
        embed_dims=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        mlp_ratio=4,
        qkv_bias=True,
        qk_scale=None,
        drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.2,
        patch_norm=True,
        out_indices=[1, 2, 3],
        with_cp=False,
        convert_weights=True,
    ),
    img_neck=dict(
        type='bevfusion_plugin.GeneralizedLSSFPN',
        in_channels=[192, 384, 768],
        out_channels=256,
        start_level=0,
        num_outs=3,
        norm_cfg=dict(type='BN2d', requires_grad=True),
        act_cfg=dict(type='ReLU', inplace=True),
        upsample_cfg=dict(mode='bilinear', align_corners=False),
    ),
    view_transform=dict(
        type='bevfusion_plugin.DepthLSSTransform',
        in_channels=256,
        out_channels=80,
        image_size=image_size,
        feature_size=feature_size,
        xbound=[-54.0, 54.0, 0.3],  # 360 cells, halved to 180
        ybound=[-54.0, 54.0, 0.3],
        zbound=[-10.0, 10.0, 20.0],
        dbound=[1.0, 60.0, 0.5],  # 118 depth bins
        downsample=2,
    ),
    fusion_layer=dict(type='bevfusion_plugin.ConvFuser', in_channels=[80, 256], out_channels=256),
)
