"""The full-size models with weights made from their keys, and the batch of one real frame."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from goldens import golden_path, nuscenes_sample
from mmdet3d.registry import DATASETS
from mmdet3d.utils import register_all_modules
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import nn

from bevfusion_plugin.registry import MODELS, build_nested

CONFIGS = Path(__file__).parents[2] / 'configs'
RECIPES = dict(lidar='bevfusion_lidar_4x4090.py', lidar_cam='bevfusion_4x4090.py')
UNTOUCHED = ('num_batches_tracked', 'frustum', 'dx', 'bx', 'nx', 'relative_position_index')


def full_size_model(kind: str) -> nn.Module:
    """The model of the recipe, without dropout, with keyed weights."""
    model = build_nested(MODELS, Config.fromfile(CONFIGS / RECIPES[kind]).model)
    rules = json.loads(golden_path('keyed_weights.json').read_text())
    for module in model.modules():
        if type(module).__name__ in ('Dropout', 'DropPath'):
            module.p = module.drop_prob = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    load_keyed_weights(model, rules[kind]['seed'], rules['rule']['tweaks'])
    return model


def load_keyed_weights(model: nn.Module, seed: int, tweaks: list) -> None:
    """Give every tensor of the state dict the value that its key and the seed determine."""
    state = {
        key: value if key.split('.')[-1] in UNTOUCHED else keyed_tensor(key, tuple(value.shape), seed)
        for key, value in model.state_dict().items()
    }
    for key, value in state.items():
        for suffix, operation, amount in tweaks:
            if key.endswith(suffix):
                value.add_(amount) if operation == 'add' else value.mul_(amount)
    model.load_state_dict(state)


def keyed_tensor(key: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """The rule of keyed_weights.json, before its tweaks."""
    z = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32).standard_normal(shape)
    last = key.split('.')[-1]
    if last == 'running_mean':
        z = 0.1 * z
    elif last == 'running_var':
        z = np.exp(0.2 * z)
    elif len(shape) >= 2:
        z = z * np.sqrt((2 if len(shape) >= 3 else 1) / np.prod(shape[1:]))
    elif last == 'weight':
        z = 1 + 0.1 * z
    else:
        z = 0.1 * z
    return torch.from_numpy(np.asarray(z, dtype=np.float32))


def real_batch(kind: str) -> dict:
    """The frame through the recipe's pipeline with the test-time image augmentation, no random step, ground truth kept."""
    register_all_modules(init_default_scope=True)
    cfg = Config.fromfile(CONFIGS / RECIPES[kind])
    dataset = cfg.train_dataloader.dataset.dataset
    dataset.data_root = str(nuscenes_sample())
    test_image_aug = [step for step in cfg.test_dataloader.dataset.pipeline if step.type.endswith('ImageAug3D')]
    steps = []
    for step in dataset.pipeline:
        name = step.type.split('.')[-1]
        if name == 'ImageAug3D':
            steps += test_image_aug
        elif name not in (
            'ObjectSample',
            'GlobalRotScaleTrans',
            'BEVFusionGlobalRotScaleTrans',
            'BEVFusionRandomFlip3D',
            'PointShuffle',
            'Pack3DDetInputs',
        ):
            steps.append(step)
    dataset.pipeline = steps + [dataset.pipeline[-1]]
    batch = pseudo_collate([DATASETS.build(dataset)[0]])
    for sample in batch['data_samples']:
        sample.set_metainfo(dict(lidar_aug_matrix=np.eye(4)))  # the points are as they were recorded
    return batch
