"""The parts of BEVFusion that mmdet3d's package does not ship."""
from bevfusion_plugin.models.lidar.sparse_encoder import BEVFusionSparseEncoder  # noqa: F401
from bevfusion_plugin.models.head.hungarian_assigner_3d import HeuristicAssigner3D, HungarianAssigner3D  # noqa: F401
from bevfusion_plugin.models.head.match_costs import BBoxBEVL1Cost, IoU3DCost  # noqa: F401
from bevfusion_plugin.models.head.transformer_decoder_layer import TransformerDecoderLayer  # noqa: F401
from bevfusion_plugin.models.head.transfusion_bbox_coder import TransFusionBBoxCoder  # noqa: F401
from bevfusion_plugin.models.head.transfusion_head import TransFusionHead  # noqa: F401
from bevfusion_plugin.models.bevfusion import BEVFusion  # noqa: F401
from bevfusion_plugin.models.conv_fuser import ConvFuser  # noqa: F401
from bevfusion_plugin.models.camera.lss_fpn import GeneralizedLSSFPN  # noqa: F401
from bevfusion_plugin.models.camera.view_transform import DepthLSSTransform, LSSTransform  # noqa: F401
