"""One frame through a trained model, without a Runner."""

from __future__ import annotations

import json
import pickle
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import load_state_dict
from mmengine.structures import BaseDataElement
from torch import nn

from bevfusion_plugin.doctor.reading.config import innermost_dataset, mapping, to_plain
from bevfusion_plugin.doctor.reading.pipelines import Pipeline
from bevfusion_plugin.doctor.reading.plain_pickle import read_plain
from bevfusion_plugin.engine.checkpoints.checked_loading import load_checked
from bevfusion_plugin.engine.checkpoints.matching import MIN_SHARE, unmatched_keys
from bevfusion_plugin.launch.command_line import UsageError
from bevfusion_plugin.launch.data_set import built_data_set


def frame_of(cfg: Config, info: str | None, index: int, points: str | None) -> dict[str, Any]:
    """``metainfo`` and, as the only entry of ``data_list``, the frame: an info file in mmdet3d's format 2.

    Args:
        cfg: The whole config.
        info: Info file, .pkl or .json, or a .json of one entry alone; None: that of the config's test data set.
        index: Which of its entries.
        points: A point file to take instead, for a model without cameras.

    Raises:
        UsageError: If there is no such frame.
    """
    dataset = innermost_dataset(cfg, 'test')
    if not dataset:
        raise UsageError(f'{cfg.filename} has no data set in test_dataloader, whose pipeline loads the frame; give it one')
    if points is not None:
        return _frame_of_points(dataset, points)
    path = Path(info) if info else Path(str(dataset.get('data_root') or ''), str(dataset.get('ann_file')))
    infos = _read(path.expanduser())
    if 'lidar_points' in infos or 'images' in infos:
        infos = dict(data_list=[infos])
    entries = infos.get('data_list')
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{path} has no data_list with entries: it must be an info file in mmdet3d's format 2, see docs/custom_data.md")
    if not 0 <= index < len(entries):
        raise UsageError(f'--index must be 0 to {len(entries) - 1}, as {path} has {len(entries)} frames, got {index}')
    return dict(metainfo=infos.get('metainfo') or {}, data_list=[dict(dict(sample_idx=index), **entries[index])])


def _frame_of_points(dataset: dict[str, Any], points: str) -> dict[str, Any]:
    if mapping(dataset.get('modality')).get('use_camera'):
        raise UsageError(f'--points {points}: this model has cameras; give the frame with its pictures and matrices as --info FILE')
    if not Path(points).is_file():
        raise UsageError(f'--points {points}: there is no such file')
    loaders = Pipeline('test', '', tuple(dataset.get('pipeline') or ())).named('LoadPointsFromFile')
    features = loaders[0].get('load_dim', 6) if loaders else 4
    path = Path(points).resolve()
    entry = dict(sample_idx=path.stem, timestamp=0.0, lidar_points=dict(lidar_path=str(path), num_pts_feats=features))
    return dict(metainfo={}, data_list=[entry])


def _read(path: Path) -> dict[str, Any]:
    try:
        infos = json.loads(path.read_text()) if path.suffix == '.json' else read_plain(path)
    except FileNotFoundError:
        raise UsageError(f'there is no info file {path}; name one with --info') from None
    except Exception as error:  # a damaged pickle can fail with anything
        raise UsageError(
            f'{path} cannot be read as an info file ({type(error).__name__}: {error}); it must be a .pkl of mmdet3d, or a '
            '.json of the same form'
        ) from error
    if not isinstance(infos, dict):
        raise UsageError(
            f'{path} holds {type(infos).__name__} and must hold a dict with data_list: make it again (mmdet3d\'s create_data.py)'
        )
    return infos


def packed_frame(cfg: Config, frame: dict[str, Any]) -> tuple[dict[str, Any], Sequence[str]]:
    """What the config's test pipeline makes of the frame of :func:`frame_of`, and the names of the classes.

    Raises:
        UsageError: If it fails.
    """
    entry = frame['data_list'][0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'infos.pkl')
        path.write_bytes(pickle.dumps(frame))
        wanted = dict(innermost_dataset(cfg, 'test'), ann_file=str(path), test_mode=True, load_eval_anns='instances' in entry)
        data = built_data_set(cfg, wanted)
        try:
            packed = data[0]
        except Exception as error:  # a pipeline can fail with anything
            raise UsageError(f'sample {entry["sample_idx"]} cannot be loaded: {type(error).__name__}: {error}') from error
    packed['data_samples'].set_metainfo(dict(sample_idx=entry['sample_idx']))  # MMEngine counts the entries instead
    return packed, data.metainfo['classes']


def loaded_model(cfg: Config, checkpoint: str, device: str) -> nn.Module:
    """The config's model with the weights of ``checkpoint``, on ``device``, ready to predict.

    Raises:
        UsageError: If it cannot be built, or the checkpoint is not one of it.
        BrokenCheckpoint: If the checkpoint is damaged.
    """
    if not Path(checkpoint).is_file():
        raise UsageError(f'there is no checkpoint {checkpoint}')
    content = load_checked(checkpoint, 'cpu')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    try:
        model = MODELS.build(to_plain(cfg.model)).to(device)
    except Exception as error:  # constructors of parts can fail with anything
        raise UsageError(f'{cfg.filename}: the model cannot be built on {device}: {type(error).__name__}: {error}') from error
    weights, own = content.get('state_dict', content), model.state_dict()
    problems = unmatched_keys(weights, own) + [f'{name}: not in the checkpoint' for name in own if name not in weights]
    if len(problems) > (1 - MIN_SHARE) * len(own):
        raise UsageError(
            f'{checkpoint} is not of this model: {len(problems)} of {len(own)} tensors do not fit, the first {problems[0]}; '
            'give the config that it was trained with'
        )
    load_state_dict(model, weights)
    return model.eval()


@torch.no_grad()
def detect(model: BaseModel, packed: dict[str, Any]) -> BaseDataElement:
    """The packed frame's data sample, with ``pred_instances_3d``."""
    return model.test_step(pseudo_collate([packed]))[0]


def detections(sample: BaseDataElement, class_names: Sequence[str], score_thr: float) -> dict[str, Any]:
    """The predictions with a score of at least ``score_thr``, best first, as what JSON can hold.

    A box has ``class``, ``label``, ``score``, ``center`` (x, y, z of its middle, metres, lidar frame), ``size`` (length, width, height),
    ``yaw`` (radians, from x towards y) and, where the model has it, ``velocity`` (vx, vy in m/s).
    """
    found = sample.pred_instances_3d.to('cpu')
    found = found[found.scores_3d.argsort(descending=True)]
    found = found[found.scores_3d >= score_thr]
    centers, values = found.bboxes_3d.gravity_center.float().tolist(), found.bboxes_3d.tensor.float().tolist()
    boxes = []
    for center, box, label, score in zip(centers, values, found.labels_3d.tolist(), found.scores_3d.tolist()):
        boxes.append(
            dict(
                {'class': class_names[label]},
                label=label,
                score=score,
                center=center,
                size=box[3:6],
                yaw=box[6],
                **(dict(velocity=box[7:9]) if len(box) > 7 else {}),
            )
        )
    return dict(sample_idx=sample.metainfo['sample_idx'], lidar_path=sample.metainfo.get('lidar_path'), boxes=boxes)
