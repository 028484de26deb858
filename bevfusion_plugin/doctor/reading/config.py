"""What a config says, read so that no config, however odd, makes a rule crash: what is absent or senseless is None or empty.

Configs reach the rules as users wrote them: any MM project, lists where a dict is usual, several optimizers, classes instead of
names. Nothing here changes a config.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

OURS = 'bevfusion_plugin.'
SPLITS = ('train', 'val', 'test')
SCALE_HOOK = f'{OURS}AutoScaleLRHook'


def mapping(value: Any) -> dict[str, Any]:
    """``value`` if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def entries(value: Any) -> list[dict[str, Any]]:
    """The dicts of a list, or a dict alone as a list of one; empty for anything else."""
    if isinstance(value, dict):
        return [value]
    return [each for each in value if isinstance(each, dict)] if isinstance(value, (list, tuple)) else []


def to_plain(value: Any) -> Any:
    """``value`` with ConfigDicts turned into dicts, all the way down."""
    if isinstance(value, dict):
        return {key: to_plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_plain(each) for each in value)
    return value


def number(value: Any) -> float | None:
    """``value`` if it is a number (no bool), else None."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def count(value: Any) -> int | None:
    """``value`` if it is an int >= 1, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None


def full_name(entry: Any) -> str:
    """Name of what ``entry`` builds, with its scope: its ``type`` as written, or module and name of a class; '' if none."""
    kind = mapping(entry).get('type')
    if isinstance(kind, str):
        return kind
    return f'{kind.__module__}.{kind.__qualname__}' if isinstance(kind, type) else ''


def short_name(entry: Any) -> str:
    """The name of what ``entry`` builds, without scope or module: 'OneCycleParamScheduler'."""
    return full_name(entry).rpartition('.')[2]


def is_ours(entry: Any, name: str = '') -> bool:
    """Whether ``entry`` builds a part of this package, and the one called ``name`` if that is given."""
    return full_name(entry).startswith(OURS) and name in ('', short_name(entry))


# ---- optimisation


def optim_wrappers(cfg: Config) -> dict[str, dict[str, Any]]:
    """Configs of the optimizer wrappers by name: {'': the only one}, several by their names, or none at all."""
    wrapper = mapping(cfg.get('optim_wrapper'))
    if 'optimizer' in wrapper:
        return {'': wrapper}
    return {name: each for name, each in wrapper.items() if isinstance(each, dict) and 'optimizer' in each}


def optim_wrapper(cfg: Config) -> dict[str, Any]:
    """Config of the only optimizer wrapper; empty if there is none or there are several."""
    return optim_wrappers(cfg).get('', {})


def optimizer_cfg(cfg: Config) -> dict[str, Any]:
    """Config of the only optimizer; empty if there is none or there are several."""
    return mapping(optim_wrapper(cfg).get('optimizer'))


def learning_rate(cfg: Config) -> float | None:
    """``lr`` of the only optimizer."""
    return number(optimizer_cfg(cfg).get('lr'))


def is_adam(cfg: Config) -> bool:
    """Whether the optimizer is of Adam's family, by its name: beta1 is its momentum and its bias is corrected."""
    name = short_name(optimizer_cfg(cfg)).lower()
    return 'adam' in name or name == 'lamb'


def precision_of(cfg: Config) -> str:
    """The number format of the training on a GPU: ``'float32'``, or what its AMP wrapper casts to there."""
    wrapper = mapping(cfg.get('optim_wrapper'))
    return str(wrapper.get('dtype') or 'float16').removeprefix('torch.') if 'Amp' in short_name(wrapper) else 'float32'


def param_schedulers(cfg: Config) -> list[dict[str, Any]]:
    """Configs of the parameter schedulers, those of several optimizers one after another."""
    schedulers = cfg.get('param_scheduler')
    if isinstance(schedulers, dict) and 'type' not in schedulers:
        return [entry for each in schedulers.values() for entry in entries(each)]
    return entries(schedulers)


def scheduler_keys(cfg: Config) -> list[str]:
    """The dotted key of each of :func:`param_schedulers`, for changes: ``'param_scheduler.0'``."""

    def keys(value: Any, key: str) -> list[str]:
        if isinstance(value, (list, tuple)):
            return [f'{key}.{index}' for index, each in enumerate(value) if isinstance(each, dict)]
        return [key] * isinstance(value, dict)

    schedulers = cfg.get('param_scheduler')
    if isinstance(schedulers, dict) and 'type' not in schedulers:
        return [key for name, each in schedulers.items() for key in keys(each, f'param_scheduler.{name}')]
    return keys(schedulers, 'param_scheduler')


def moves_momentum(scheduler: dict[str, Any]) -> bool:
    """Whether a scheduler of MMEngine moves momentum or beta1 instead of the learning rate."""
    return short_name(scheduler).endswith('Momentum') or scheduler.get('param_name') == 'momentum'


def auto_scale_lr(cfg: Config) -> dict[str, Any]:
    """``auto_scale_lr``; empty if there is none."""
    return mapping(cfg.get('auto_scale_lr'))


def scales_lr(cfg: Config) -> bool:
    """Whether the learning rate is scaled to the batch."""
    return bool(auto_scale_lr(cfg).get('enable', False)) or scale_hook(cfg).get('enable') is True


def scale_hook(cfg: Config) -> dict[str, Any]:
    """Config of our AutoScaleLRHook; empty if scaling, where it is on, is MMEngine's own."""
    return next((hook for hook in hooks(cfg) if full_name(hook) == SCALE_HOOK or is_ours(hook, 'AutoScaleLRHook')), {})


# ---- length of the training


def train_cfg(cfg: Config) -> dict[str, Any]:
    """``train_cfg``; empty if the config does not train."""
    return mapping(cfg.get('train_cfg'))


def is_by_iteration(cfg: Config) -> bool:
    """Whether the training loop counts iterations and knows no epochs."""
    train = train_cfg(cfg)
    if 'type' in train:
        return 'Iter' in short_name(train)
    return train.get('by_epoch', True) is False


def max_epochs(cfg: Config) -> int | None:
    """Epochs of the training; None where it counts iterations."""
    return None if is_by_iteration(cfg) else count(train_cfg(cfg).get('max_epochs'))


def max_iters(cfg: Config) -> int | None:
    """Iterations (micro-batches) of the training; None where it counts epochs."""
    return count(train_cfg(cfg).get('max_iters')) if is_by_iteration(cfg) else None


def samples_per_gpu(cfg: Config) -> int | None:
    """Samples a rank a micro-batch, b."""
    loader = mapping(cfg.get('train_dataloader'))
    own = count(loader.get('batch_size'))
    return own or count(mapping(loader.get('batch_sampler')).get('batch_size'))


# ---- data, model, hooks


def _datasets(cfg: Config, split: str) -> list[dict[str, Any]]:
    """The data set with its wrappers (CBGSDataset, RepeatDataset, ConcatDataset, ...) around it, from the outermost inwards."""
    found = entries(mapping(cfg.get(f'{split}_dataloader')).get('dataset'))[:1]
    while found:
        inner = [*entries(found[-1].get('dataset')), *entries(found[-1].get('datasets'))][:1]
        if not inner:
            break
        found += inner
    return found


def innermost_dataset(cfg: Config, split: str = 'train') -> dict[str, Any]:
    """Config of the data set inside all wrappers; the first of several. Empty if there is none.

    Args:
        cfg: The whole config.
        split: ``'train'``, ``'val'`` or ``'test'``.
    """
    return (_datasets(cfg, split) or [{}])[-1]


def datasets_with_keys(cfg: Config, split: str = 'train') -> Iterator[tuple[str, dict[str, Any]]]:
    """(dotted key, config) of every data set of a split, wrappers first, whatever is nested in what; ``split`` as above."""
    waiting = [(f'{split}_dataloader.dataset', mapping(cfg.get(f'{split}_dataloader')).get('dataset'))]
    while waiting:
        (key, dataset), *waiting = waiting
        if not isinstance(dataset, dict):
            continue
        yield key, dataset
        several = dataset.get('datasets')
        inner = [(f'{key}.datasets.{index}', each) for index, each in enumerate(several)] if isinstance(several, (list, tuple)) else []
        waiting = [(f'{key}.dataset', dataset.get('dataset')), *inner, *waiting]


def innermost_datasets(cfg: Config, split: str = 'train') -> list[dict[str, Any]]:
    """Configs of all data sets inside all wrappers, which are several under a ConcatDataset; ``split`` as above."""
    return [
        dataset
        for _, dataset in datasets_with_keys(cfg, split)
        if not entries(dataset.get('dataset')) and not entries(dataset.get('datasets'))
    ]


def dataset_wrappers(cfg: Config, split: str = 'train') -> list[dict[str, Any]]:
    """Configs of the data set wrappers, from the outermost inwards."""
    return _datasets(cfg, split)[:-1]


def hooks(cfg: Config) -> list[dict[str, Any]]:
    """Configs of default and custom hooks; a default hook without ``type`` is MMEngine's own and left out."""
    default = [hook for hook in mapping(cfg.get('default_hooks')).values() if isinstance(hook, dict)]
    return [hook for hook in [*default, *entries(cfg.get('custom_hooks'))] if 'type' in hook]


def has_hook(cfg: Config, name: str) -> bool:
    """Whether a hook called ``name`` is there, whatever package it is from."""
    return any(short_name(hook) == name for hook in hooks(cfg))


def parts(value: Any, path: str = 'model') -> Iterator[tuple[str, dict[str, Any]]]:
    """(dotted path, dict) of every dict in ``value``, itself first: ``parts(cfg.get('model'))`` walks the model."""
    if isinstance(value, dict):
        yield path, value
        for key, each in value.items():
            yield from parts(each, f'{path}.{key}')
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            yield from parts(each, f'{path}.{index}')
