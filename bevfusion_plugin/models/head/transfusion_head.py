"""TransFusion's head: the peaks of a dense heatmap become object queries, a decoder turns them into boxes.

Letters: B samples, C channels, X x Y cells of the BEV map, K classes, Q proposals (queries), L decoder layers.
Predictions of several supervised layers lie one behind the other in the last dimension, L * Q.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmcv.cnn import build_conv_layer
from mmengine.model import BaseModule, ModuleList
from mmengine.structures import InstanceData
from torch import Tensor, nn

from bevfusion_plugin.models.head.assignment import GroundTruth, MatchingCosts, match, matching_statistics, pad_ground_truth
from bevfusion_plugin.models.head.branches import HEATMAP_BIAS, at_least_float32, heatmap_branch, prediction_branch
from bevfusion_plugin.models.head.circle_nms import circle_nms_mask
from bevfusion_plugin.models.head.head_config import (
    CIRCLE_NMS_RADIUS,
    CLASSES_WITHOUT_LOCAL_MAXIMUM,
    REGRESSION,
    check_head_arguments,
    check_head_config,
    check_train_config,
)
from bevfusion_plugin.models.head.heuristic_assigner_3d import HeuristicAssigner3D
from bevfusion_plugin.models.head.losses import heatmap_loss, layer_losses
from bevfusion_plugin.models.head.proposals import best_proposals, cell_centers, is_of_class, query_labels_of
from bevfusion_plugin.models.head.transfusion_targets import TransFusionTargets, batch_heatmaps, map_cells, query_targets
from bevfusion_plugin.ops.packed_copy import copy_together
from bevfusion_plugin.registry import MODELS, TASK_UTILS, build_nested


@MODELS.register_module()
class TransFusionHead(BaseModule):
    """Detection head on a BEV map: dense heatmap, top proposals, transformer decoder, box and class per proposal.

    Takes mmdet3d's full BEVFusion configuration as it is. Components given as a config may have bare or prefixed type
    names. Proposals are sorted stably, so equal scores give the same proposals on every device.

    Args:
        num_proposals: Proposals Q a sample, the best over all classes.
        auxiliary: Supervise every decoder layer; False supervises the last one only, and with several layers the
            prediction heads of the others get no gradient (DDP then needs ``find_unused_parameters``).
        in_channels: Channels of the BEV map.
        hidden_channel: Channels C of the head.
        num_classes: Classes K.
        num_decoder_layers: Decoder layers L; each refines the centres of the one before.
        decoder_layer: Config of a decoder layer, e.g. ``TransformerDecoderLayer``.
        num_heads: Not used, the decoder layer's own config decides; kept so that reference configs build.
        nms_kernel_size: Odd side length in cells of the window in which a proposal must be the maximum; 1 for none.
            Cells whose window leaves the map cannot be proposals. Pedestrian and traffic cone of nuScenes,
            pedestrian and cyclist of Waymo skip the test.
        bn_momentum: Momentum of every BatchNorm in the head.
        common_heads: Regression heads, name -> (channels, convolutions), of center, height, dim, rot[, vel].
        num_heatmap_convs: Convolutions of the class head.
        conv_cfg: Convolution of the prediction heads; None means Conv1d.
        norm_cfg: Norm of the prediction heads; None means BN1d.
        bias: 'auto' gives a bias to convolutions that no norm follows.
        loss_cls: Config of the class loss; must have ``use_sigmoid=True``.
        loss_bbox: Config of the regression loss.
        loss_heatmap: Config of the dense heatmap's loss.
        train_cfg: ``point_cloud_range``, ``grid_size``, ``voxel_size``, ``out_size_factor``, ``gaussian_overlap``,
            ``min_radius``, ``pos_weight`` (whole number, <= 0 means 1), ``code_weights`` (missing means 1 each),
            ``assigner``. None builds a head for inference only.
        test_cfg: ``grid_size`` (voxels) and ``out_size_factor`` give the size of the BEV map; ``dataset`` ('nuScenes',
            'Waymo' or any other name) the special classes; ``nms_type`` None or 'circle'.
        bbox_coder: Config of the box coder, e.g. ``TransFusionBBoxCoder``.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ValueError: If a setting cannot work; the message names it, its value and what it may be.

    Source: TransFusion (arXiv 2203.11496) and BEVFusion (arXiv 2205.13542); parameter names and numbers as in
        mmdetection3d projects/BEVFusion, transfusion_head.py. Differs in that samples without ground truth, several
        decoder layers in training and losses computed twice from the same predictions work, as do maps with X != Y,
        and in that ``init_weights`` sets the biases of both heatmaps to -2.19, not the decoder's Xavier weights alone.
    """

    def __init__(
        self,
        *,
        decoder_layer: dict,
        common_heads: dict,
        loss_cls: dict,
        loss_bbox: dict,
        loss_heatmap: dict,
        test_cfg: dict,
        bbox_coder: dict,
        train_cfg: dict | None = None,
        num_proposals: int = 128,
        auxiliary: bool = True,
        in_channels: int = 384,
        hidden_channel: int = 128,
        num_classes: int = 4,
        num_decoder_layers: int = 3,
        num_heads: int = 8,
        nms_kernel_size: int = 1,
        bn_momentum: float = 0.1,
        num_heatmap_convs: int = 2,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        bias: bool | str = 'auto',
        init_cfg: dict | None = None,
    ) -> None:
        counts = dict(
            num_proposals=num_proposals,
            in_channels=in_channels,
            hidden_channel=hidden_channel,
            num_classes=num_classes,
            num_decoder_layers=num_decoder_layers,
            nms_kernel_size=nms_kernel_size,
            num_heatmap_convs=num_heatmap_convs,
        )
        parts = dict(decoder_layer=decoder_layer, loss_cls=loss_cls, loss_bbox=loss_bbox, loss_heatmap=loss_heatmap, bbox_coder=bbox_coder)
        check_head_arguments(counts, parts, auxiliary, bn_momentum, bias, common_heads, test_cfg, train_cfg)
        super().__init__(init_cfg)
        self.num_proposals = num_proposals
        self.auxiliary = auxiliary
        self.num_classes = num_classes
        self.nms_kernel_size = nms_kernel_size
        self.train_cfg = {} if train_cfg is None else train_cfg
        self.test_cfg = test_cfg
        self.bbox_coder = build_nested(TASK_UTILS, bbox_coder)
        self.map_size = map_cells(test_cfg)
        check_head_config(
            num_proposals, num_classes, nms_kernel_size, self.map_size, common_heads, self.bbox_coder.code_size, loss_cls, test_cfg
        )

        self.loss_cls = build_nested(MODELS, loss_cls)
        self.loss_bbox = build_nested(MODELS, loss_bbox)
        self.loss_heatmap = build_nested(MODELS, loss_heatmap)
        self.shared_conv = build_conv_layer(dict(type='Conv2d'), in_channels, hidden_channel, 3, padding=1, bias=bool(bias))
        self.heatmap_head = heatmap_branch(hidden_channel, num_classes, bias)
        self.class_encoding = nn.Conv1d(num_classes, hidden_channel, 1)
        self.decoder = ModuleList(build_nested(MODELS, decoder_layer) for _ in range(num_decoder_layers))
        heads = dict(common_heads, heatmap=(num_classes, num_heatmap_convs))
        self.prediction_heads = ModuleList(
            prediction_branch(hidden_channel, heads, bias, conv_cfg, norm_cfg) for _ in range(num_decoder_layers)
        )
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = bn_momentum
        self.register_buffer('bev_pos', cell_centers(*self.map_size), persistent=False)
        if train_cfg is not None:
            check_train_config(train_cfg, test_cfg, self.map_size, self.bbox_coder.code_size)
            self.bbox_assigner = build_nested(TASK_UTILS, train_cfg['assigner'])
            code_weights = train_cfg.get('code_weights') or [1.0] * self.bbox_coder.code_size
            self.register_buffer('code_weights', torch.tensor(code_weights, dtype=torch.float32), persistent=False)

    def init_weights(self) -> None:
        """Heatmap biases of -2.19, Xavier in the decoder; the other layers keep what their constructors gave them."""
        bias = self.heatmap_head[-1].bias
        if isinstance(bias, Tensor):
            nn.init.constant_(bias, HEATMAP_BIAS)
        super().init_weights()

    def forward(self, feats: Tensor | Sequence[Tensor], metas: list[dict] | None = None) -> tuple[list[dict]]:
        """Predictions ``([preds],)`` on one BEV map.

        Args:
            feats: BEV map (B, in_channels, X, Y), or a sequence of just one.
            metas: Not used.

        Returns:
            ``preds`` maps names to tensors, at least float32: ``center`` (B, 2, L * Q) in cells, ``height`` (B, 1,
            L * Q) of the gravity centre in metres, ``dim`` (B, 3, L * Q) log metres, ``rot`` (B, 2, L * Q) sine and
            cosine, ``vel`` (B, 2, L * Q) m/s, ``heatmap`` (B, K, L * Q) class logits; of the proposals
            ``query_heatmap_score`` (B, K, Q) and ``query_labels`` (B, Q); ``dense_heatmap`` (B, K, X, Y) logits.
            L is 1 without ``auxiliary``.

        Raises:
            ValueError: If there is more than one map or it has not the size that ``test_cfg`` gives.
        """
        feats = [feats] if isinstance(feats, Tensor) else feats
        if len(feats) != 1:
            raise ValueError(f'TransFusionHead takes one BEV map, got {len(feats)}; let the neck return a single level')
        if tuple(feats[0].shape[2:]) != self.map_size:
            raise ValueError(
                f'expected a BEV map of {self.map_size} cells (test_cfg.grid_size // out_size_factor), '
                f'got {tuple(feats[0].shape[2:])}; make the grid and the encoder strides agree'
            )
        return ([self._forward_single(feats[0])],)

    def _forward_single(self, bev: Tensor) -> dict[str, Tensor]:
        bev = self.shared_conv(bev)
        with torch.autocast(bev.device.type, enabled=False):
            dense_heatmap = self.heatmap_head(at_least_float32(bev))
        exempt = CLASSES_WITHOUT_LOCAL_MAXIMUM.get(self.test_cfg.get('dataset'), ())
        labels, cells, query_scores = best_proposals(dense_heatmap.detach().sigmoid(), self.num_proposals, self.nms_kernel_size, exempt)
        key = bev.flatten(2)  # (B, C, X * Y)
        key_pos = self.bev_pos.expand(len(bev), -1, -1)
        query = key.gather(2, cells[:, None].expand(-1, key.shape[1], -1))
        query = query + self.class_encoding(is_of_class(labels, self.num_classes).to(key_pos.dtype))
        query_pos = key_pos.gather(1, cells[..., None].expand(-1, -1, 2))
        layers = []
        for decoder, prediction_head in zip(self.decoder, self.prediction_heads):
            query = decoder(query, key=key, query_pos=query_pos, key_pos=key_pos)
            layer = {name: at_least_float32(value) for name, value in prediction_head(query).items()}
            layer['center'] = layer['center'] + query_pos.transpose(1, 2)
            query_pos = layer['center'].detach().transpose(1, 2)
            layers.append(layer)
        supervised = layers if self.auxiliary else layers[-1:]
        preds = {name: torch.cat([layer[name] for layer in supervised], dim=-1) for name in supervised[0]}
        return dict(preds, query_heatmap_score=query_scores, query_labels=labels, dense_heatmap=dense_heatmap)

    def loss(self, batch_feats: Tensor | Sequence[Tensor], batch_data_samples: list) -> dict[str, Tensor]:
        """Losses of a batch; arguments as in ``forward`` and samples with ``gt_instances_3d``."""
        preds_dicts = self(batch_feats, [sample.metainfo for sample in batch_data_samples])
        return self.loss_by_feat(preds_dicts, [sample.gt_instances_3d for sample in batch_data_samples])

    def loss_by_feat(self, preds_dicts: Sequence[list[dict]], batch_gt_instances_3d: list[InstanceData]) -> dict[str, Tensor]:
        """Losses of predictions, which stay unchanged.

        Args:
            preds_dicts: What ``forward`` returned.
            batch_gt_instances_3d: ``bboxes_3d`` (with z at the bottom) and ``labels_3d`` of each sample.

        Returns:
            ``loss_heatmap``, over the number of cells that are exactly 1; ``layer_i_loss_cls`` and
            ``layer_i_loss_bbox``, -1 for the last layer, over the number of matched queries of all samples and
            layers of this rank; and the statistic ``matched_ious``.
        """
        preds = preds_dicts[0][0]
        targets = self.get_targets(batch_gt_instances_3d, preds_dicts[0])
        return dict(
            loss_heatmap=heatmap_loss(self.loss_heatmap, preds['dense_heatmap'], targets.heatmap),
            **layer_losses(self.loss_cls, self.loss_bbox, preds, targets, self.num_proposals, self.code_weights),
            matched_ious=targets.matched_ious,
        )

    @torch.no_grad()
    def get_targets(self, batch_gt_instances_3d: list[InstanceData], preds_dict: list[dict]) -> TransFusionTargets:
        """Targets of a batch; ``preds_dict`` is ``[preds]``, other arguments as in ``loss_by_feat``.

        The host waits once for the device: for the costs of the matching and, on the same way, for the boxes.
        """
        preds, logits = preds_dict[0], preds_dict[0]['heatmap']
        boxes = self.bbox_coder.decode_boxes(**self._codes(preds, slice(None)))
        truth = pad_ground_truth(batch_gt_instances_3d, self.bbox_coder.code_size - 1, boxes.device)
        costs = self._costs(boxes, truth, logits, preds)
        total, gt_boxes, gt_labels = copy_together([costs.total, truth.boxes, truth.labels], 'cpu')
        matches = match(self.bbox_assigner, costs, total.numpy(), truth.counts, self.num_proposals)
        gt_inds = torch.from_numpy(matches).to(boxes.device, non_blocking=True)
        return TransFusionTargets(
            *query_targets(
                gt_inds, truth.boxes.to(boxes.dtype), truth.labels, self.num_classes, self.train_cfg.get('pos_weight', -1), self.bbox_coder
            ),
            *matching_statistics(costs.iou, gt_inds),
            batch_heatmaps(gt_boxes, gt_labels, truth.counts, self.num_classes, self.train_cfg, boxes.device),
        )

    def _costs(self, boxes: Tensor, truth: GroundTruth, logits: Tensor, preds: Mapping[str, Tensor]) -> MatchingCosts:
        query_labels = None
        if isinstance(self.bbox_assigner, HeuristicAssigner3D):
            query_labels = query_labels_of(preds).repeat(1, boxes.shape[1] // self.num_proposals)
        return self.bbox_assigner.costs(boxes, truth.boxes.to(boxes.dtype), truth.labels, logits, query_labels, self.train_cfg)

    def predict(self, batch_feats: Tensor | Sequence[Tensor], batch_input_metas: list[dict]) -> list[InstanceData]:
        """Detections of each sample, as ``predict_by_feat``, of a BEV map as in ``forward``."""
        return self.predict_by_feat(self(batch_feats, batch_input_metas), batch_input_metas)

    def predict_by_feat(
        self, preds_dicts: Sequence[list[dict]], metas: list[dict], img: None = None, rescale: bool = False, for_roi: bool = False
    ) -> list[InstanceData]:
        """Detections of each sample from the last decoder layer, in the order of the proposals.

        The score is the query's class probability times the dense heatmap's score, for the proposal's class only.

        Args:
            preds_dicts: What ``forward`` returned; stays unchanged.
            metas: Of each sample; the first one's ``box_type_3d`` is the class of the boxes.
            img: Not used, as ``rescale`` and ``for_roi``; in the reference's signature.
            rescale: Not used.
            for_roi: Not used.

        Returns:
            ``bboxes_3d`` (N, 7 or 9) with z at the bottom, ``scores_3d`` (N,) and ``labels_3d`` (N,) int32 a sample.
        """
        preds = preds_dicts[0][0]
        last = slice(-self.num_proposals, None)
        proposal_class = is_of_class(query_labels_of(preds), self.num_classes)
        scores = preds['heatmap'][..., last].sigmoid() * preds['query_heatmap_score'] * proposal_class
        detections = self.bbox_coder.decode(scores, **self._codes(preds, last), filter=True)
        return [self._to_instances(detection, metas[0]['box_type_3d']) for detection in detections]

    def _codes(self, preds: Mapping[str, Tensor], queries: slice) -> dict[str, Tensor | None]:
        return {name: preds[name][..., queries] if name in preds else None for name in REGRESSION}

    def _to_instances(self, detection: dict[str, Tensor], box_type: type) -> InstanceData:
        boxes, scores, labels = detection['bboxes'], detection['scores'], detection['labels']
        if self.test_cfg.get('nms_type') == 'circle':
            kept = circle_nms_mask(boxes, scores, labels, CIRCLE_NMS_RADIUS[self.test_cfg['dataset']])
            boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        return InstanceData(bboxes_3d=box_type(boxes, box_dim=boxes.shape[-1]), scores_3d=scores, labels_3d=labels.int())
