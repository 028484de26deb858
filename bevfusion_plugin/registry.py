"""Child registries of MMEngine's, under the scope ``bevfusion_plugin``.

A config reaches a part by its prefixed name, ``type='bevfusion_plugin.OneCycleParamScheduler'``. MMEngine
imports this module and the room a registry loads from by itself, so neither ``custom_imports`` nor an
``import bevfusion_plugin`` is needed. MMEngine's own names (``OneCycleParamScheduler``,
``AmpOptimWrapper``) keep their meaning: ours live beside them, not over them.
"""

from __future__ import annotations

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import PARAM_SCHEDULERS as MMENGINE_PARAM_SCHEDULERS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

SCOPE = 'bevfusion_plugin'


def _child(parent: Registry, *rooms: str) -> Registry:
    return Registry(parent.name, parent=parent, scope=SCOPE, locations=[f'{SCOPE}.{room}' for room in rooms])


PARAM_SCHEDULERS = _child(MMENGINE_PARAM_SCHEDULERS, 'engine')
OPTIM_WRAPPERS = _child(MMENGINE_OPTIM_WRAPPERS, 'engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS, 'engine')
DATA_SAMPLERS = _child(MMENGINE_DATA_SAMPLERS, 'engine')
HOOKS = _child(MMENGINE_HOOKS, 'engine', 'visualization')
MODELS = _child(MMENGINE_MODELS, 'models')
TASK_UTILS = _child(MMENGINE_TASK_UTILS, 'models')
TRANSFORMS = _child(MMENGINE_TRANSFORMS, 'datasets')
DATASETS = _child(MMENGINE_DATASETS, 'datasets')
METRICS = _child(MMENGINE_METRICS, 'evaluation')


def build_nested(registry: Registry, cfg: dict, **kwargs):
    """Build a part of one of our components from its config, whatever the default scope is.

    Args:
        registry: One of the registries of this module.
        cfg: Config with a ``type``. A bare name means ours if we have it, else what the current default
            scope knows, else mmdet3d's. So a reference BEVFusion config works with bare or prefixed names.
        **kwargs: Passed to ``Registry.build``.

    Returns:
        The built object. ``cfg`` is not changed.
    """
    cfg = cfg.copy()
    name = cfg['type']
    if isinstance(name, str) and '.' not in name:
        registry.import_from_location()
        if name in registry.module_dict:
            cfg['type'] = f'{SCOPE}.{name}'
        else:
            with registry.switch_scope_and_registry(None) as current:
                if current.get(name) is None:
                    cfg['type'] = f'mmdet3d.{name}'
    return registry.build(cfg, **kwargs)
