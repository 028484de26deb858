"""The schedulers that a Runner has built, by the optimizer wrapper that they move."""

from __future__ import annotations

from mmengine.optim import OptimWrapper, OptimWrapperDict, _ParamScheduler
from mmengine.runner import Runner


def schedulers_of(runner: Runner, name: str) -> list[_ParamScheduler]:
    """Built schedulers of the optimizer wrapper ``name`` (of several; '' where there is one)."""
    schedulers = runner.param_schedulers or []
    return schedulers[name] if isinstance(schedulers, dict) else schedulers


def rebuild_schedulers(runner: Runner, name: str, wrapper: OptimWrapper) -> None:
    """Build the schedulers of ``wrapper``, called ``name``, anew from the Runner's config.

    Raises:
        ValueError: If the Runner was not given the config of its schedulers.
    """
    if runner.param_schedulers is None:
        return
    config = runner.cfg.get('param_scheduler')
    if config is None:
        raise ValueError(
            'AutoScaleLRHook has to build the schedulers anew, but runner.cfg has no param_scheduler; use '
            'Runner.from_cfg, or pass cfg=dict(param_scheduler=...) to Runner as well'
        )
    if isinstance(runner.optim_wrapper, OptimWrapperDict):
        config = config[name] if isinstance(config, dict) and 'type' not in config else config
        runner.param_schedulers[name] = runner._build_param_scheduler(config, wrapper)
    else:
        runner.param_schedulers = runner._build_param_scheduler(config, wrapper)
