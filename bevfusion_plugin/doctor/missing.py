"""What a run needs from the disk and the machine, checked before anything is built."""
from __future__ import annotations

import importlib.util
import logging
import os
import pickletools
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from bevfusion_plugin.doctor.reading.plan_settings import last_name

SAMPLE_VARIABLE = 'NUSCENES_SAMPLE'
LAYOUT = ('expected: samples/ and sweeps/ with the sensor files, nuscenes_infos_train.pkl and nuscenes_infos_val.pkl '
          '(README, "Data"), and the tables v1.0-trainval/ for the validation; `make demo` needs no data at all')


class PreflightError(RuntimeError):
    """The run cannot start; each line of the message is one thing that is missing and how to get it."""


def check_run(cfg: Config, training: bool = True) -> None:
    """Raise PreflightError with everything that ``cfg`` names and the machine does not have.

    Where the environment variable NUSCENES_SAMPLE is set, the run is a trial on a sample, and the config is fitted to it with a
    warning: missing weights are left out, and a metric that needs the nuScenes tables gives way to one that does not.

    Args:
        cfg: The whole config.
        training: Whether the training data and the initial weights are needed.
    """
    if os.environ.get(SAMPLE_VARIABLE):
        fit_to_sample(cfg, training)
    problems = [*missing_packages(cfg), *missing_devices(cfg), *missing_data(cfg, training)]
    if training:
        problems += [f'{place} names {path}, which does not exist; {mend}' for place, path, mend in missing_weights(cfg)]
    if problems:
        raise PreflightError('this run cannot start:\n' + '\n'.join(f'- {problem}' for problem in problems))


def missing_packages(cfg: Config) -> Iterator[str]:
    """Packages that the config's scope needs and Python does not find."""
    if cfg.get('default_scope') == 'mmdet3d':
        absent = [name for name in ('mmcv', 'mmdet', 'mmdet3d') if importlib.util.find_spec(name) is None]
        if absent:
            yield (f'{", ".join(absent)} cannot be imported; `make demo` or `make test` makes an environment with everything, '
                   'README "Installation" says how to add them to yours')


def missing_devices(cfg: Config) -> Iterator[str]:
    """Devices that the config asks for and the machine does not have."""
    backend = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('backend')
    if cfg.get('launcher', 'none') != 'none' and backend == 'nccl' and not torch.cuda.is_available():
        yield ('env_cfg.dist_cfg.backend is nccl, which needs CUDA, and torch finds no GPU; check the driver '
               '(`python -c "import torch; print(torch.cuda.is_available())"`), or train on CPUs with '
               '--cfg-options env_cfg.dist_cfg.backend=gloo')


def missing_data(cfg: Config, training: bool) -> Iterator[str]:
    """Folders and files of the data sets that will be read."""
    validating = will_validate(cfg) if training else False
    loaders = ['train_dataloader'] * training + ['val_dataloader'] * validating + ['test_dataloader'] * (not training)
    seen: set[str] = set()
    for name in loaders:
        for problem in _dataset_problems(name, _innermost(cfg.get(name, {}).get('dataset', {}))):
            if problem.split(': ', 1)[1] not in seen:
                seen.add(problem.split(': ', 1)[1])
                yield problem
    if validating or not training:
        yield from _evaluator_problems(cfg, 'val_evaluator' if training else 'test_evaluator')


def will_validate(cfg: Config) -> bool:
    """Whether the training loop gets to a validation: MMEngine's make one at the end in any case, if it is not before val_begin."""
    train = cfg.get('train_cfg') or {}
    length = train.get('max_epochs') or train.get('max_iters') or 0
    return bool(cfg.get('val_dataloader')) and length >= train.get('val_begin', 1)


def _innermost(dataset: dict) -> dict:
    while isinstance(dataset.get('dataset'), dict):  # CBGSDataset, RepeatDataset, ...
        dataset = dataset['dataset']
    return dataset


def _dataset_problems(loader: str, dataset: dict) -> Iterator[str]:
    root, ann_file = dataset.get('data_root'), dataset.get('ann_file')
    if not root or '://' in root or dataset.get('backend_args'):  # not files of this machine
        return
    root = Path(root)
    if not root.is_dir():
        yield f'{loader}: the data folder {root} does not exist; {LAYOUT}. Another place: --cfg-options data_root=FOLDER'
        return
    if ann_file:
        yield from _info_problems(loader, root / ann_file)
    for sensor, folder in (dataset.get('data_prefix') or {}).items():
        if sensor != 'sweeps' and not (root / folder).is_dir():  # a set without sweeps is padded
            yield f'{loader}: the sensor folder {root / folder} does not exist; {LAYOUT}'
    for transform in dataset.get('pipeline') or []:
        database = (transform.get('db_sampler') or {}).get('info_path')
        if database and not Path(database).is_file():
            yield (f'{loader}: the object database {database} does not exist; it is written with the info files '
                   '(README, "Data")')


def _info_problems(loader: str, path: Path) -> Iterator[str]:
    infos = path.suffix == '.pkl'
    mend = 'make it with mmdet3d\'s create_data.py (README, "Data")' if infos else 'set ann_file, or data_root above it'
    if not path.is_file():
        yield f'{loader}: the info file {path} does not exist; {mend}'
        return
    if not infos:  # another data set's, in a form of its own
        return
    key = first_key(path)
    if key not in ('data_list', 'metainfo'):
        yield (f'{loader}: the info file {path} starts with {key!r}, not with data_list and metainfo: it was written by another '
               f'version (mmdet3d < 1.1 or another code base) and its boxes mean something else; {mend}')


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


def _evaluator_problems(cfg: Config, name: str) -> Iterator[str]:
    for evaluator in _lacking_tables(cfg.get(name)):
        yield (f'{name}: NuScenesMetric needs the nuScenes tables and there is no {evaluator["data_root"]}/v1.0-trainval (or -mini, '
               '-test); add them, switch the validation off (train_cfg.val_begin above the number of epochs), or use '
               'bevfusion_plugin.CenterDistanceMetric, which needs the info file alone')


def _lacking_tables(evaluators: dict | list | None) -> list[dict]:
    """The nuScenes evaluators whose folder exists and has no tables."""
    listed = [evaluators] if isinstance(evaluators, dict) else evaluators or []
    return [evaluator for evaluator in listed
            if last_name(evaluator) == 'NuScenesMetric' and Path(evaluator.get('data_root') or '').is_dir()
            and not list(Path(evaluator['data_root']).glob('v1.0-*'))]


def missing_weights(cfg: Config) -> Iterator[tuple[str, str, str]]:
    """(place in the config, path, mend) of every local weight file that does not exist; addresses are not checked."""
    if cfg.get('load_from') and _absent(cfg.load_from):
        yield ('load_from', cfg.load_from, 'train the lidar stage first (configs/bevfusion_lidar_4x4090.py) and set load_from to '
               'its checkpoint; training without it costs about 6 mAP (mit-han-lab/bevfusion#207)')
    for name, part in (cfg.get('model') or {}).items():
        init = part.get('init_cfg') if isinstance(part, dict) else None
        if isinstance(init, dict) and init.get('type') == 'Pretrained' and _absent(init.get('checkpoint', '')):
            yield (f'model.{name}.init_cfg.checkpoint', init['checkpoint'],
                   f'fetch it (README, "Weights") and set model.{name}.init_cfg.checkpoint')


def _absent(path: str) -> bool:
    return '://' not in path and not path.startswith('torchvision') and not Path(path).is_file()


def fit_to_sample(cfg: Config, training: bool) -> None:
    """Take out what a sample does not come with, and say so."""
    why = f'this is a trial on a sample ({SAMPLE_VARIABLE} is set)'
    for place, path, _ in list(missing_weights(cfg)) if training else []:
        print_log(f'{place}: {path} does not exist; {why}, it starts from random weights', 'current', logging.WARNING)
        cfg.merge_from_dict({place.removesuffix('.checkpoint'): None})
    for name in ('val_evaluator', 'test_evaluator'):
        if _lacking_tables(cfg.get(name)):
            print_log(f'{name}: there are no nuScenes tables; {why}, scored by CenterDistanceMetric', 'current', logging.WARNING)
            cfg[name] = ConfigDict(type='bevfusion_plugin.CenterDistanceMetric')
