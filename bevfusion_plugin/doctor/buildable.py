"""Whether the registries take what a config asks for: every type is looked up, every argument's name compared, the model built.

The model is built on the meta device, so that it takes neither time nor memory; data sets, hooks, metrics and loops are not built,
since that reads files and writes folders: their names and their arguments' names are checked against the class.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from mmengine import registry as mmengine_registry
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope, Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop, ValLoop
from torch import nn
from torch.utils.data import DataLoader

from bevfusion_plugin.doctor.reading.config import SPLITS, datasets_with_keys, entries, full_name, is_by_iteration, mapping
from bevfusion_plugin.doctor.reading.pipelines import Pipeline
from bevfusion_plugin.doctor.schedule_trace import silent_log

# What Runner itself reads and hands on to no class.
LOADER_KEYS = {'batch_size', 'sampler', 'batch_sampler', 'dataset', 'collate_fn', 'num_batch_per_epoch', 'worker_init_fn'}
WRAPPER_KEYS = {'type', 'optimizer', 'constructor', 'paramwise_cfg'}
CONFIG_KEYS = {
    'auto_scale_lr',
    'resume',
    'load_from',
    'env_cfg',
    'custom_imports',
    'runner_type',
    'work_dir',
    'data_root',
    'num_gpus',
    'sync_bn',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'strategy',
    'compile',
    'launcher',
}
RUNNER_KEYS = (set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}) | CONFIG_KEYS
LIKENESS = 0.8


def nearest(name: str, known: Iterable[str], likeness: float = LIKENESS) -> str | None:
    """The name of ``known`` that ``name`` was probably meant to be; None if none is near."""
    return next(iter(difflib.get_close_matches(name, list(known), 1, likeness)), None)


def misspelt_keys(keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(key, what it was probably meant to be) of every top-level key that no Runner reads and that looks like one it does."""
    keys = list(keys)
    for key in keys:
        meant = None if key in RUNNER_KEYS else nearest(key, RUNNER_KEYS)
        if meant and (meant not in keys or sorted(meant) == sorted(key)):
            yield key, meant


def refusals(cfg: Config, starting: str | None = None) -> Iterator[tuple[str, str]]:
    """(dotted key, what is wrong) of every part that cannot be built.

    Args:
        cfg: The whole config; it is not changed.
        starting: ``'train'`` or ``'test'``: only what that needs; None: everything.
    """
    unneeded = dict(train=('test_',), test=('train_', 'val_', 'optim_wrapper')).get(starting or '', ())
    found = 0  # faults of optim_wrapper, which building it would only repeat
    with silent_log(), DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        for key, entry, family, extra in _parts(cfg):
            problem = None if key.startswith(unneeded) else _refused(entry, family, extra)
            if problem:
                found += key.startswith('optim_wrapper')
                yield key, problem
        model = None
        if mapping(cfg.get('model')):
            try:
                model = meta_model(cfg)
            except Exception as error:  # a model's own code
                yield 'model', reason(error)
        if model is not None and not found and starting != 'test' and 'optimizer' in mapping(cfg.get('optim_wrapper')):
            yield from _refused_optimizer(cfg, model)


def reason(error: BaseException) -> str:
    """What an error says, in one line, with its class where it says little; an unknown type with the name nearest to it."""
    absent = re.search(r'(\S+) is not in the (\S+) registry', str(error)) if isinstance(error, KeyError) else None
    if absent:
        return unknown(absent[1].strip("'"), absent[2].rpartition('::')[2])
    text = ' '.join(str(error).split()) or type(error).__name__
    return text if isinstance(error, (ValueError, TypeError)) else f'{type(error).__name__}: {text}'


def unknown(name: str, family: str) -> str:
    """That there is no ``name`` in the registry called ``family``, and the nearest name in any package that was imported."""
    root = next((each for each in vars(mmengine_registry).values() if isinstance(each, Registry) and each.name == family), None)
    names: dict[str, str] = {}
    for registry in (root, *root.children.values()) if root is not None else ():
        names |= {short: f'{registry.scope}.{short}' for short in registry.module_dict}
    meant = nearest(name.rpartition('.')[2], names, 0.6)
    return f'there is no {family} called {name!r}' + (f'; did you mean {names[meant]!r}?' if meant else '')


def meta_model(cfg: Config) -> nn.Module:
    """The model on the meta device; on the CPU where it computes with its parameters while it is built."""
    from bevfusion_plugin.registry import MODELS

    try:
        with torch.device('meta'):
            return MODELS.build(copy.deepcopy(cfg.model))
    except (NotImplementedError, RuntimeError):
        return MODELS.build(copy.deepcopy(cfg.model))


def _parts(cfg: Config) -> Iterator[tuple[str, dict[str, Any], Registry | type, set[str]]]:
    """(dotted key, config, registry or class, arguments that Runner adds) of every part whose registry is certain."""
    wrapper = mapping(cfg.get('optim_wrapper'))
    if 'optimizer' in wrapper:
        yield 'optim_wrapper', dict(wrapper, type=wrapper.get('type', 'OptimWrapper')), mmengine_registry.OPTIM_WRAPPERS, WRAPPER_KEYS
        if 'type' in mapping(wrapper['optimizer']):
            yield 'optim_wrapper.optimizer', wrapper['optimizer'], mmengine_registry.OPTIMIZERS, set()
    for name, hook in mapping(cfg.get('default_hooks')).items():
        if 'type' in mapping(hook):
            yield f'default_hooks.{name}', hook, mmengine_registry.HOOKS, {'priority'}
    for index, hook in enumerate(entries(cfg.get('custom_hooks'))):
        yield f'custom_hooks.{index}', hook, mmengine_registry.HOOKS, {'priority'}
    loop = IterBasedTrainLoop if is_by_iteration(cfg) else EpochBasedTrainLoop
    for name, default in (('train_cfg', loop), ('val_cfg', ValLoop), ('test_cfg', TestLoop)):
        entry = mapping(cfg.get(name))
        if entry:
            yield (name, entry, mmengine_registry.LOOPS if 'type' in entry else default, {'runner', 'dataloader', 'evaluator', 'by_epoch'})
    for split in SPLITS:
        loader = mapping(cfg.get(f'{split}_dataloader'))
        if loader:
            yield f'{split}_dataloader', dict(loader), DataLoader, LOADER_KEYS | {'self'}
        if 'type' in mapping(loader.get('sampler')):
            yield f'{split}_dataloader.sampler', loader['sampler'], mmengine_registry.DATA_SAMPLERS, {'dataset', 'seed'}
        for key, dataset in datasets_with_keys(cfg, split):
            yield key, dataset, mmengine_registry.DATASETS, set()
            steps = dataset.get('pipeline')
            for step in Pipeline(split, key, tuple(steps)).all_steps if isinstance(steps, (list, tuple)) else []:
                yield f'{key}.pipeline', step, mmengine_registry.TRANSFORMS, set()
        for each in entries(cfg.get(f'{split}_evaluator')):
            if 'type' in each:
                yield f'{split}_evaluator', each, mmengine_registry.METRICS, set()


def _refused(entry: dict[str, Any], family: Registry | type, extra: set[str]) -> str | None:
    """What is wrong with the type or the arguments of ``entry``; None if nothing is."""
    if isinstance(family, type):
        found: Any = family
    else:
        if not full_name(entry):
            return f'has no type; name one of the registry {family.name!r}'
        with family.switch_scope_and_registry(None) as current:
            try:
                found = current.get(full_name(entry))
            except Exception as error:  # an import that fails
                return f'{full_name(entry)} cannot be imported: {reason(error)}'
            if found is None:
                return unknown(full_name(entry), family.name)
    known = argument_names(found)
    if known is None:
        return None
    wrong = [key for key in entry if key not in ('type', '_scope_') and key not in known | extra]
    if wrong:
        meant = nearest(wrong[0], known, 0.6)
        return f'{getattr(found, "__name__", found)} has no argument {wrong[0]!r}' + (
            f'; did you mean {meant!r}?' if meant else f'; it takes {", ".join(sorted(known - {"self", "args", "kwargs"}))}'
        )
    return None


def argument_names(found: Any) -> set[str] | None:
    """The arguments that a class takes by name, handed on to its bases by ``**kwargs``, too; None if it takes any."""
    if not inspect.isclass(found):
        return None
    names: set[str] = set()
    for each in found.__mro__:
        if '__init__' not in vars(each):
            continue
        parameters = inspect.signature(vars(each)['__init__']).parameters
        names |= set(parameters)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return names
    return None


def _refused_optimizer(cfg: Config, model: nn.Module) -> Iterator[tuple[str, str]]:
    """The optimizer over the model's real parameters, with its constructor; the wrapper's own type is MMEngine's plain one here."""
    wrapper = mapping(cfg.get('optim_wrapper'))
    settings: dict[str, Any] = {key: copy.deepcopy(wrapper[key]) for key in ('optimizer', 'constructor', 'paramwise_cfg') if key in wrapper}
    try:
        build_optim_wrapper(model, dict(settings, type='mmengine.optim.OptimWrapper'))
    except Exception as error:  # torch's, a constructor's
        yield 'optim_wrapper', f'{reason(error)}, with {settings}'
