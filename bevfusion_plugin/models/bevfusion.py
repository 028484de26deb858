"""The BEVFusion detector: image and lidar encoders, view transform, fuser, bird's-eye-view backbone, head."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet3d.models.detectors.base import Base3DDetector
from mmdet3d.structures import Det3DDataSample
from mmengine.logging import print_log
from mmengine.model import BaseModule, initialize
from torch import Tensor, nn

from bevfusion_plugin.models.camera.view_matrices import stack_view_matrices
from bevfusion_plugin.models.checkpointing import checkpoint_units, start_checkpointing
from bevfusion_plugin.models.detector_config import check_branches, checked_preprocessor
from bevfusion_plugin.models.foreign_parts import WORKING, has_x_last, transposed, zyx
from bevfusion_plugin.models.input_check import check_batch
from bevfusion_plugin.models.map_channels import check_map_channels
from bevfusion_plugin.ops.voxelize import hard_voxelize_batch, mean_voxels_batch
from bevfusion_plugin.registry import MODELS, build_nested

COMPILED = ('img_backbone', 'img_neck', 'fusion_layer', 'pts_backbone', 'pts_neck', 'bbox_head')  # shapes that stay, no sparse tensors
CHECKPOINTED = ('img_backbone', 'img_neck', 'view_transform', 'pts_middle_encoder')  # what with_cp=True means
HALF = (torch.float16, torch.bfloat16)


@MODELS.register_module()
class BEVFusion(Base3DDetector):
    """3D object detector with lidar, cameras or both, fused in the bird's-eye view.

    Every nested config is built by name through the registries: bare names mean this package's parts first, then
    the default scope's, then mmdet3d's. Parts of mmdet3d that are named in :mod:`bevfusion_plugin.models.foreign_parts` get
    voxels and maps with their axes as mmdet3d has them; others of its voxel encoders, middle encoders and heads are refused.

    Args:
        data_preprocessor: ``Det3DDataPreprocessor`` config that also holds ``voxelize_cfg`` with ``voxel_size``,
            ``point_cloud_range`` (metres), ``max_num_points``, ``max_voxels`` ((training, testing), or one
            number) and ``voxelize_reduce`` (True: a voxel's feature is the mean of its points).
        pts_voxel_encoder: Encoder of (V, max_num_points, C) voxels; runs only with ``voxelize_reduce=False``.
        pts_middle_encoder: Sparse 3D encoder; None for a model with cameras alone. (``DepthLSSTransform`` sees lidar points still,
            ``LSSTransform`` does not.)
        pts_backbone, pts_neck: 2D network over the bird's-eye-view map.
        bbox_head: Detection head.
        fusion_layer: Joins [camera, lidar] maps: needed with both, absent with lidar alone; with cameras alone it may get their map.
        img_backbone, img_neck, view_transform: The camera branch; all three or none.
        with_cp: Activation checkpointing, which keeps less for the backward pass and runs parts of the model twice: True for
            CHECKPOINTED as far as the model has them, or the names of the parts (those, fusion_layer, pts_backbone, pts_neck).
            Gradients and running statistics are those without it.
        channels_last: Keep the weights of 2D convolutions, and so what they compute, in memory with the channels innermost.
        compiled: Run the parts named in COMPILED through ``torch.compile``, each in one graph; a mapping holds its arguments. Parts
            with activation checkpointing stay as they are, and the log says so. (MMEngine's own ``compile`` takes the whole training
            step, whose points have another number each time.)
        train_cfg, test_cfg: Not read: the head has its own. ``mmdet3d.apis`` hands them to every detector.
        init_cfg: Initialisation; the parts bring their own.

    Raises:
        ValueError: If a branch is incomplete, the data preprocessor's or a part's config is missing or cannot be, or ``with_cp`` names
            no part; at the first batch, if the weights are in half precision (see ``half``).

    Source:
        BEVFusion, Liu et al. 2022 (arXiv 2205.13542); mmdetection3d projects/BEVFusion for the names. Different there: the
        batch size is read off the last voxel (a last sample without points vanishes), missing augmentation matrices
        become identity, and fewer parts are initialised: the image backbone (bevfusion.py, ``init_weights``) and the head's decoder
        (transfusion_head.py, Xavier in the constructor), both as here. What starts from torch's defaults there and not here: the 2D
        convolutions of SECOND and the transposed ones of SECONDFPN (Kaiming, their ``init_cfg``), and the biases of the dense
        heatmap's and the class heads' last convolution (-2.19; there 0 on average).
    """

    def __init__(
        self,
        data_preprocessor: dict,
        pts_backbone: dict,
        pts_neck: dict,
        bbox_head: dict,
        pts_middle_encoder: dict | None = None,
        pts_voxel_encoder: dict | None = None,
        fusion_layer: dict | None = None,
        img_backbone: dict | None = None,
        img_neck: dict | None = None,
        view_transform: dict | None = None,
        with_cp: bool | Sequence[str] = False,
        channels_last: bool = False,
        compiled: bool | Mapping[str, Any] = False,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        preprocessor, voxelize_cfg = checked_preprocessor(data_preprocessor)
        parts = dict(
            pts_voxel_encoder=pts_voxel_encoder,
            img_backbone=img_backbone,
            img_neck=img_neck,
            view_transform=view_transform,
            pts_middle_encoder=pts_middle_encoder,
            fusion_layer=fusion_layer,
            pts_backbone=pts_backbone,
            pts_neck=pts_neck,
            bbox_head=bbox_head,
        )
        check_branches(parts)
        super().__init__(data_preprocessor=build_nested(MODELS, preprocessor), init_cfg=init_cfg)
        self.data_preprocessor.register_forward_pre_hook(check_batch)
        self.voxelize_reduce = voxelize_cfg.pop('voxelize_reduce', False)
        self.voxelize_cfg = voxelize_cfg
        for name, cfg in parts.items():
            setattr(self, name, None if cfg is None else build_nested(MODELS, cfg))
        self.x_last = {name for name in WORKING if has_x_last(name, getattr(self, name))}
        check_map_channels(self.pts_middle_encoder, self.fusion_layer, self.pts_backbone)
        if not self.voxelize_reduce and self.pts_voxel_encoder is None:
            raise ValueError('voxelize_cfg.voxelize_reduce=False needs a pts_voxel_encoder; set it to True for the mean')
        self.checkpoint(with_cp)
        if channels_last:
            for module in self.modules():
                if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's hints leave it out
        if compiled is not False:
            self.compile_parts(**({} if compiled is True else compiled))

    def compile_parts(self, **settings: Any) -> None:
        """Have ``torch.compile`` take the parts named in COMPILED when they first run.

        Args:
            **settings: Arguments of ``torch.compile``.
        """
        for name in COMPILED:
            part = getattr(self, name)
            if part is None:
                continue
            if any(getattr(module, 'is_run_again', False) for module in part.modules()):
                print_log(f'{name} has activation checkpointing and is not compiled', 'current', logging.WARNING)
                continue
            for module in part.modules():
                if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):  # SECONDFPN's strides are numpy's, which break the graph
                    module.stride = tuple(int(step) for step in module.stride)
            part.compile(**settings)

    def checkpoint(self, with_cp: bool | Sequence[str]) -> None:
        """Start activation checkpointing of these parts; see the argument of the class.

        Raises:
            ValueError: If it names what is no part, or one that cannot be checkpointed.
        """
        able = [name for name in (*CHECKPOINTED, 'fusion_layer', 'pts_backbone', 'pts_neck') if getattr(self, name) is not None]
        names = [name for name in CHECKPOINTED if name in able] if with_cp is True else with_cp or ()
        if isinstance(names, str) or not set(names) <= set(able):
            raise ValueError(f'with_cp must be True, False or a list of parts of this model, {", ".join(able)}; got {with_cp!r}')
        for name in names:
            for unit in checkpoint_units(getattr(self, name)):
                start_checkpointing(unit)

    def init_weights(self) -> None:
        """Initialise each part as its own ``init_cfg`` says, then apply this model's if it has one.

        MMEngine's version logs the mean of every parameter and so fails on the view transform's integer one.
        """
        for part in self.children():
            if isinstance(part, BaseModule):
                part.init_weights()
        if self.init_cfg:
            initialize(self, self.init_cfg)

    def half(self) -> None:
        """Refused, as ``bfloat16``: 11 or 8 bits move the view transform's frustum by cells.

        Raises:
            ValueError: With what does half precision right.
        """
        raise ValueError(
            f'{type(self).__name__} cannot have weights in half precision, which moves image features by cells; keep them in '
            'float32 and run the model within torch.autocast(device, dtype), as tools/test.py --amp float16 does'
        )

    bfloat16 = half

    def voxelize(self, points: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Voxel features (V, C) and their coordinates (V, 4) int32 as (sample, x, y, z).

        Args:
            points: One (P, C) per sample, lidar frame, metres. Samples without points are fine.
        """
        cfg = self.voxelize_cfg
        args = (cfg['voxel_size'], cfg['point_cloud_range'], cfg['max_num_points'], cfg['max_voxels'][0 if self.training else 1])
        with torch.autocast(points[0].device.type, enabled=False):
            samples = [sample.float() for sample in points]
            if self.voxelize_reduce:
                features, coords, _ = mean_voxels_batch(samples, *args)
            else:
                voxels, coords, counts = hard_voxelize_batch(samples, *args)
                features = self.pts_voxel_encoder(voxels, counts, zyx(coords) if 'pts_voxel_encoder' in self.x_last else coords)
        return features, coords

    def extract_pts_feat(self, batch_inputs_dict: dict) -> Tensor:
        """Lidar map (B, C, X, Y) from ``batch_inputs_dict['points']``."""
        points = batch_inputs_dict['points']
        features, coords = self.voxelize(points)
        if 'pts_middle_encoder' in self.x_last:
            return transposed(self.pts_middle_encoder(features, zyx(coords), len(points)))
        return self.pts_middle_encoder(features, coords, len(points))

    def extract_img_feat(self, imgs: Tensor, points: Sequence[Tensor] | None, metas: Sequence[dict]) -> Tensor:
        """Camera map (B, C, X, Y) from images (B, N, 3, image_h, image_w) and what the samples' metas record."""
        b, n = imgs.shape[:2]
        matrices = stack_view_matrices(metas, self.training)
        features = self.img_backbone(imgs.flatten(0, 1).contiguous())
        features = self.img_neck(features)
        if not isinstance(features, Tensor):
            features = features[0]  # the finest level
        return self.view_transform(features.unflatten(0, (b, n)), points, *matrices, metas)

    def extract_feat(self, batch_inputs_dict: dict, batch_input_metas: Sequence[dict]) -> Sequence[Tensor]:
        """Bird's-eye-view features for the head: the neck's maps (B, C, X, Y).

        Args:
            batch_inputs_dict: ``points`` (list of (P, C)), which a model with cameras alone need not have, and, for a camera model,
                ``imgs`` (B, N, 3, image_h, image_w).
            batch_input_metas: One meta dict per sample.

        Raises:
            ValueError: If the batch lacks images or points that the model needs, a matrix is missing, or the weights are in half precision.
        """
        if any(parameter.dtype in HALF for parameter in self.parameters()):
            self.half()
        features, points = [], batch_inputs_dict.get('points')
        if points is None and self.pts_middle_encoder is not None:
            raise ValueError(
                "this model has a lidar branch, but the batch has no points; add 'points' to the keys of Pack3DDetInputs and "
                'load them in the pipeline'
            )
        if self.img_backbone is not None:
            imgs = batch_inputs_dict.get('imgs')
            if imgs is None:
                raise ValueError(
                    "this model has a camera branch, but the batch has no images; add 'img' to the keys of "
                    'Pack3DDetInputs and load it in the pipeline'
                )
            features.append(self.extract_img_feat(imgs, points, batch_input_metas))
        if self.pts_middle_encoder is not None:
            features.append(self.extract_pts_feat(batch_inputs_dict))
        x = features[0] if self.fusion_layer is None else self.fusion_layer(features)
        return self.pts_neck(self.pts_backbone(x))

    def loss(self, batch_inputs_dict: dict, batch_data_samples: list[Det3DDataSample], **kwargs) -> dict[str, Tensor]:
        """Loss terms of the head for a batch."""
        feats = self.extract_feat(batch_inputs_dict, [sample.metainfo for sample in batch_data_samples])
        return self.bbox_head.loss(self._for_head(feats), batch_data_samples)

    def predict(self, batch_inputs_dict: dict, batch_data_samples: list[Det3DDataSample], **kwargs) -> list[Det3DDataSample]:
        """The data samples with ``pred_instances_3d`` (boxes in the lidar frame, scores, labels) filled in."""
        metas = [sample.metainfo for sample in batch_data_samples]
        feats = self._for_head(self.extract_feat(batch_inputs_dict, metas))
        results = self.bbox_head.predict(feats, batch_data_samples if 'bbox_head' in self.x_last else metas)
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(self, batch_inputs_dict: dict, batch_data_samples: list[Det3DDataSample], **kwargs):
        """Raw outputs of the head, without losses or decoding."""
        metas = [sample.metainfo for sample in batch_data_samples]
        feats = self._for_head(self.extract_feat(batch_inputs_dict, metas))
        return self.bbox_head(feats) if 'bbox_head' in self.x_last else self.bbox_head(feats, metas)

    def _for_head(self, feats: Sequence[Tensor]) -> Sequence[Tensor]:
        return [transposed(bev) for bev in feats] if 'bbox_head' in self.x_last else feats
