"""What a run needs from the disk and the machine, and does not find there. Nothing here changes a config."""

from __future__ import annotations

import importlib.util
import pickletools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config

from bevfusion_plugin.doctor.reading.config import entries, innermost_datasets, mapping, short_name, train_cfg
from bevfusion_plugin.doctor.reading.model import is_bevfusion, lifts_images
from bevfusion_plugin.doctor.reading.nuscenes import is_nuscenes

LAYOUT = (
    'expected: samples/ and sweeps/ with the sensor files, nuscenes_infos_train.pkl and nuscenes_infos_val.pkl '
    '(README, "Data"), and the tables v1.0-trainval/ for the validation; `make demo` needs no data at all'
)


class Missing(NamedTuple):
    """One thing that is not there.

    Attributes:
        place: Where the config names it: a data loader, an evaluator, or the dotted key of a file; '' if nowhere.
        what: The sentence that says so.
        mend: How to get it.
    """

    place: str
    what: str
    mend: str


def missing_packages(cfg: Config) -> Iterator[Missing]:
    """Packages that the config's scope needs and Python does not find."""
    if cfg.get('default_scope') == 'mmdet3d':
        absent = [name for name in ('mmcv', 'mmdet', 'mmdet3d') if importlib.util.find_spec(name) is None]
        if absent:
            yield Missing(
                'default_scope',
                f'{", ".join(absent)} cannot be imported',
                '`python tools/setup_env.py --here`, in the '
                'clone of bevfusion_plugin, adds them to this environment (README, "Installation")',
            )


def missing_devices(cfg: Config | Mapping[str, Any], ranks_here: int | None = None) -> Iterator[Missing]:
    """Devices that the config asks for and the machine does not have.

    Args:
        cfg: The whole config, or what of it counts.
        ranks_here: Ranks that were started on this machine: each takes a GPU of its own, else nccl hangs or torch fails.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus and ranks_here and ranks_here > gpus:
        yield Missing(
            '',
            f'{ranks_here} processes were started on this machine, which has {gpus} GPU{"s" * (gpus > 1)}, and each needs its own',
            f'start {gpus} (the number behind tools/dist_train.sh or --nproc_per_node, or CUDA_VISIBLE_DEVICES)',
        )
    backend = mapping(mapping(cfg.get('env_cfg')).get('dist_cfg')).get('backend')
    if cfg.get('launcher', 'none') != 'none' and backend == 'nccl' and not torch.cuda.is_available():
        yield Missing(
            'env_cfg.dist_cfg.backend',
            'env_cfg.dist_cfg.backend is nccl, which needs CUDA, and torch finds no GPU',
            'check the driver (`python -c "import torch; print(torch.cuda.is_available())"`), or train on CPUs with '
            '--cfg-options env_cfg.dist_cfg.backend=gloo',
        )


# ---- data


def missing_data(cfg: Config, training: bool) -> Iterator[Missing]:
    """Folders and files of the data sets that will be read, each once.

    Args:
        cfg: The whole config.
        training: Whether it will be trained (and validated, if it gets to that), or tested.
    """
    validating = will_validate(cfg) if training else False
    splits = ['train'] * training + ['val'] * validating + ['test'] * (not training)
    seen = set()
    for split in splits:
        for dataset in innermost_datasets(cfg, split):
            for missing in _missing_of_dataset(f'{split}_dataloader', dataset):
                problem = missing.what.partition(': ')[2]
                if problem not in seen:  # two loaders may name the same file
                    yield missing
                seen.add(problem)
    if validating or not training:
        yield from _missing_tables(cfg, 'val_evaluator' if training else 'test_evaluator')


def will_validate(cfg: Config) -> bool:
    """Whether the training loop gets to a validation: MMEngine's make one at the end in any case, if it is not before val_begin."""
    train = train_cfg(cfg)
    length = train.get('max_epochs') or train.get('max_iters') or 0
    return bool(cfg.get('val_dataloader')) and length >= train.get('val_begin', 1)


def _missing_of_dataset(loader: str, dataset: dict[str, Any]) -> Iterator[Missing]:
    root, ann_file = dataset.get('data_root'), dataset.get('ann_file')
    if not root or '://' in str(root) or dataset.get('backend_args'):  # not files of this machine
        return
    root, layout = Path(root), LAYOUT if is_nuscenes(dataset) else 'bring the data there'
    if not root.is_dir():
        yield Missing(
            loader, f'{loader}: the data folder {root} does not exist', f'{layout}. Another place: --cfg-options data_root=FOLDER'
        )
        return
    if ann_file:
        yield from _missing_infos(loader, root / ann_file)
    for sensor, folder in mapping(dataset.get('data_prefix')).items():
        if folder and sensor != 'sweeps' and not (root / folder).is_dir():  # a set without sweeps is padded
            yield Missing(loader, f'{loader}: the sensor folder {root / folder} does not exist', layout)
    for transform in dataset.get('pipeline') or []:
        database = mapping(mapping(transform).get('db_sampler')).get('info_path')
        if database and not Path(database).is_file():
            yield Missing(
                loader, f'{loader}: the object database {database} does not exist', 'it is written with the info files (README, "Data")'
            )


def _missing_infos(loader: str, path: Path) -> Iterator[Missing]:
    infos = path.suffix == '.pkl'
    mend = 'make it with mmdet3d\'s create_data.py (README, "Data")' if infos else 'set ann_file, or data_root above it'
    if not path.is_file():
        yield Missing(loader, f'{loader}: the info file {path} does not exist', mend)
        return
    if not infos:  # another data set's, in a form of its own
        return
    key = first_key(path)
    if key not in ('data_list', 'metainfo'):
        yield Missing(
            loader,
            f'{loader}: the info file {path} starts with {key!r}, not with data_list and metainfo: it was written by '
            'another version (mmdet3d < 1.1 or another code base) and its boxes mean something else',
            mend,
        )


def first_key(path: Path) -> str | None:
    """First string in a pickle file: the first key of the dict it holds, without reading the rest."""
    with path.open('rb') as file:
        try:
            for opcode, argument, _ in pickletools.genops(file):
                if 'UNICODE' in opcode.name:
                    return argument
        except ValueError:
            pass  # not a pickle file
    return None


def _missing_tables(cfg: Config, name: str) -> Iterator[Missing]:
    for evaluator in evaluators_without_tables(cfg.get(name)):
        yield Missing(
            name,
            f'{name}: NuScenesMetric needs the nuScenes tables and there is no {evaluator["data_root"]}/v1.0-trainval (or -mini, -test)',
            'add them, switch the validation off (train_cfg.val_begin above the number of epochs), or use '
            'bevfusion_plugin.CenterDistanceMetric, which needs the info file alone (as --trial does)',
        )


def evaluators_without_tables(evaluators: Any) -> list[dict[str, Any]]:
    """The nuScenes evaluators whose folder exists and has no tables."""
    return [
        evaluator
        for evaluator in entries(evaluators)
        if short_name(evaluator) == 'NuScenesMetric'
        and evaluator.get('data_root')
        and Path(evaluator['data_root']).is_dir()
        and not list(Path(evaluator['data_root']).glob('v1.0-*'))
    ]


# ---- weights


def missing_weights(cfg: Config) -> Iterator[Missing]:
    """Local weight files that do not exist; addresses are not checked."""
    if cfg.get('load_from') and _absent(cfg.load_from):
        mend = 'set load_from to a checkpoint that is there, or to None to start without (as --trial does)'
        if is_bevfusion(cfg) and lifts_images(cfg):
            mend = (
                'train the lidar stage first (configs/bevfusion_lidar.py) and set load_from to its checkpoint; training '
                'without it, as --trial does, costs about 6 mAP (mit-han-lab/bevfusion#207)'
            )
        yield Missing('load_from', f'load_from names {cfg.load_from}, which does not exist', mend)
    for name, part in mapping(cfg.get('model')).items():
        init = mapping(mapping(part).get('init_cfg'))
        if init.get('type') == 'Pretrained' and init.get('checkpoint') and _absent(init['checkpoint']):
            place = f'model.{name}.init_cfg.checkpoint'
            yield Missing(
                place, f'{place} names {init["checkpoint"]}, which does not exist', f'fetch it (README, "Weights") and set {place}'
            )


def _absent(path: str) -> bool:
    return '://' not in path and not path.startswith('torchvision') and not Path(path).is_file()
