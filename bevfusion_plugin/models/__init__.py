"""The parts of BEVFusion that mmdet3d's package does not ship."""

from bevfusion_plugin.models.bevfusion import BEVFusion
from bevfusion_plugin.models.camera.lss_fpn import GeneralizedLSSFPN
from bevfusion_plugin.models.camera.swin_transformer import SwinTransformer
from bevfusion_plugin.models.camera.view_transform import DepthLSSTransform, LSSTransform
from bevfusion_plugin.models.conv_fuser import ConvFuser
from bevfusion_plugin.models.head.heuristic_assigner_3d import HeuristicAssigner3D
from bevfusion_plugin.models.head.hungarian_assigner_3d import HungarianAssigner3D
from bevfusion_plugin.models.head.match_costs import BBoxBEVL1Cost, IoU3DCost
from bevfusion_plugin.models.head.transformer_decoder_layer import TransformerDecoderLayer
from bevfusion_plugin.models.head.transfusion_bbox_coder import TransFusionBBoxCoder
from bevfusion_plugin.models.head.transfusion_head import TransFusionHead
from bevfusion_plugin.models.lidar.sparse_encoder import BEVFusionSparseEncoder

__all__ = [
    'BBoxBEVL1Cost',
    'BEVFusion',
    'BEVFusionSparseEncoder',
    'ConvFuser',
    'DepthLSSTransform',
    'GeneralizedLSSFPN',
    'HeuristicAssigner3D',
    'HungarianAssigner3D',
    'IoU3DCost',
    'LSSTransform',
    'SwinTransformer',
    'TransFusionBBoxCoder',
    'TransFusionHead',
    'TransformerDecoderLayer',
]
