"""Parameter groups as OpenPCDet makes them, around MMEngine's optimizer wrappers."""

from __future__ import annotations

import copy
import inspect
import logging
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from bevfusion_plugin.engine.openpcdet.layer_groups import layer_groups, trainable_outside
from bevfusion_plugin.plan.checked_settings import finite_number, finite_numbers, settings_dict, switch
from bevfusion_plugin.registry import OPTIM_WRAPPER_CONSTRUCTORS

FUSED_DEVICES = ('cuda', 'cpu')
PARAMWISE_KEYS = ('leaf_modules_only', 'bn_wd', 'decay_unused', 'custom_keys')


def decay_unused_parameters(optimizer: Optimizer, *_: Any) -> None:
    """Decay the trainable parameters that got no gradient; a step pre-hook of a decoupled optimizer.

    ``AdamW`` skips them, OpenPCDet decays them like the rest. Does nothing in a step that a fused optimizer is about to skip
    because the gradient scaler found an overflow.
    """
    found_inf = getattr(optimizer, 'found_inf', None)  # set by GradScaler.step for fused optimizers alone
    if found_inf is not None and found_inf.item():
        return
    with torch.no_grad():
        for group in optimizer.param_groups:
            for parameter in group['params']:
                if parameter.requires_grad and parameter.grad is None:
                    parameter.mul_(1 - group['lr'] * group['weight_decay'])


def check_optimizer(settings: dict[str, Any]) -> None:
    """Raise ValueError for a number of an optimizer's config that would make its updates none or turn them round."""
    for name in {'lr', 'weight_decay', 'momentum', 'dampening', 'eps'} & set(settings):
        finite_number(f'optimizer.{name}', settings[name], 0, mend=f'set optim_wrapper.optimizer.{name}')
    betas = finite_numbers('optimizer.betas', settings.get('betas', (0.9, 0.99)), 2, least=0)
    if max(betas) >= 1 or not all(isinstance(beta, float) for beta in betas):  # torch takes no ints
        raise ValueError(f'optimizer.betas must be two numbers in [0, 1), got {betas!r}; write 0 as 0.0')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OpenPCDetOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Builds an optimizer wrapper whose groups and weight decay are those of OpenPCDet.

    Groups 0 and 1 are :func:`layer_groups`; parameters that a custom key names follow in groups of their own. Weight decay
    applies to biases and BatchNorm too, and is decoupled for Adam.

    Args:
        optim_wrapper_cfg: Config of the wrapper with an ``optimizer`` inside. Its type is Adam (built as AdamW: decoupled, and
            without decay if it names none), AdamW, or SGD (which keeps torch's coupled decay, as OpenPCDet's sgd does).
            ``betas`` default to (0.9, 0.99). AdamW runs fused where torch can, unless ``fused`` or ``foreach`` is given.
        paramwise_cfg: Any of

            - ``leaf_modules_only`` (False): see :func:`layer_groups`; True reproduces OpenPCDet and logs what is left out.
            - ``bn_wd`` (True): False takes the decay off BatchNorm parameters, unless a custom key sets their ``decay_mult``.
            - ``decay_unused`` (False): True decays trainable parameters that got no gradient, as OpenPCDet does.
            - ``custom_keys``: MMEngine's, with its matching: the longest key that is part of a parameter's name, the first in
              the alphabet among equals; ``lr_mult``, ``decay_mult``, and any other setting of a group.

    Raises:
        ValueError: If the optimizer's type is another, has no ``lr``, a key of ``paramwise_cfg`` is unknown, a custom key holds what
            nothing reads, the model has nothing to train, or a number or a switch cannot be.
    """

    base_wd: float | None

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        settings_dict('optimizer', settings_dict('optim_wrapper_cfg', optim_wrapper_cfg, 'optimizer')['optimizer'], 'type')
        settings_dict('custom_keys', settings_dict('paramwise_cfg', {} if paramwise_cfg is None else paramwise_cfg).get('custom_keys', {}))
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def _validate_cfg(self) -> None:
        if self.base_wd is None:
            self.base_wd = inspect.signature(self._torch_class()).parameters['weight_decay'].default
        super()._validate_cfg()
        unknown = sorted(set(self.paramwise_cfg) - set(PARAMWISE_KEYS))
        if unknown:
            raise ValueError(
                f'paramwise_cfg takes {", ".join(PARAMWISE_KEYS)}, got {", ".join(unknown)}; '
                "MMEngine's other keys belong to DefaultOptimWrapperConstructor"
            )
        if self.base_lr is None:
            raise ValueError(f'optimizer.lr is missing in {self.optimizer_cfg}; set it to the peak LR')
        if self.paramwise_cfg.get('decay_unused') and self._torch_class() is SGD:
            raise ValueError('decay_unused=True needs decoupled weight decay, got SGD; set optimizer.type to AdamW')
        check_optimizer(self.optimizer_cfg)
        for name in PARAMWISE_KEYS[:3]:
            switch(f'paramwise_cfg.{name}', self.paramwise_cfg.get(name, False))
        for key, custom in self.paramwise_cfg.get('custom_keys', {}).items():
            for name in {'lr_mult', 'decay_mult'} & set(settings_dict(f'paramwise_cfg.custom_keys.{key}', custom)):
                finite_number(f'paramwise_cfg.custom_keys.{key}.{name}', custom[name], 0)
        self._check_custom_keys()

    def _check_custom_keys(self) -> None:
        """Refuse what neither this constructor nor the optimizer reads: torch keeps any setting of a group, and nothing happens."""
        known = {'lr_mult', 'decay_mult', *inspect.signature(self._torch_class()).parameters} - {'params'}
        for name, custom in self.paramwise_cfg.get('custom_keys', {}).items():
            unread = sorted(set(custom) - known)
            if unread:
                mend = 'freeze it in the model' if 'requires_grad' in unread else f'it takes {", ".join(sorted(known))}'
                raise ValueError(f'paramwise_cfg.custom_keys[{name!r}] has {", ".join(unread)}, which nothing reads; {mend}')

    def _torch_class(self) -> type[Optimizer]:
        name = self.optimizer_cfg.get('type')
        found = OPTIMIZERS.get(name) if isinstance(name, str) else name
        if found not in (Adam, AdamW, SGD):
            raise ValueError(
                f'optimizer.type must be Adam, AdamW or SGD, got {name}; any other type needs '
                "constructor='DefaultOptimWrapperConstructor'"
            )
        return found

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """The wrapper around an optimizer of ``model``'s parameters."""
        if is_model_wrapper(model):
            model = getattr(model, 'module')
        groups = self._custom_groups(layer_groups(model, self.paramwise_cfg.get('leaf_modules_only', False)))
        self._check_coverage(model, groups)
        optimizer = self._build_optimizer(groups)
        if self.paramwise_cfg.get('decay_unused'):
            optimizer.register_step_pre_hook(decay_unused_parameters)
        # The wrapper pops from clip_grad, so it gets a copy.
        return OPTIM_WRAPPERS.build(copy.deepcopy(self.optim_wrapper_cfg), default_args=dict(type='OptimWrapper', optimizer=optimizer))

    def _custom_groups(self, groups: list[dict[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """Optimizer groups: not BN, BN, then one for each custom key and kind that has parameters."""
        custom_keys = self.paramwise_cfg.get('custom_keys', {})
        sorted_keys = sorted(sorted(custom_keys), key=len, reverse=True)
        members: dict[tuple[str | None, bool], list[nn.Parameter]] = {(None, False): [], (None, True): []}
        for is_bn, group in zip((False, True), groups):
            for name, parameter in group.items():
                # MMEngine writes a parameter of the model itself with a leading dot.
                key = next((key for key in sorted_keys if key in (name if '.' in name else f'.{name}')), None)
                members.setdefault((key, is_bn), []).append(parameter)
        unmatched = [key for key in custom_keys if not {(key, False), (key, True)} & set(members)]
        if unmatched:
            print_log(f'custom_keys that name no trainable parameter: {unmatched}', logger='current', level=logging.WARNING)
        return [
            dict(params=parameters, **self._group_settings(custom_keys.get(key, {}), is_bn)) for (key, is_bn), parameters in members.items()
        ]

    def _group_settings(self, custom: dict[str, Any], is_bn: bool) -> dict[str, Any]:
        settings = {}
        if 'lr_mult' in custom:
            settings['lr'] = self.base_lr * custom['lr_mult']
        if 'decay_mult' in custom:
            settings['weight_decay'] = self.base_wd * custom['decay_mult']
        elif is_bn and not self.paramwise_cfg.get('bn_wd', True):
            settings['weight_decay'] = 0.0
        return {**settings, **custom}

    def _check_coverage(self, model: nn.Module, groups: list[dict[str, Any]]) -> None:
        parameters = [parameter for group in groups for parameter in group['params']]
        if not parameters:
            raise ValueError(f'{type(model).__name__} has no trainable parameter; unfreeze some (requires_grad=True)')
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        if frozen:
            print_log(
                f'{len(frozen)} frozen parameters are in no group of the optimizer, the first {frozen[0]}: unfrozen later, by a hook, '
                'they would not be trained',
                logger='current',
            )
        left_out = trainable_outside(model, parameters)
        if left_out and self.paramwise_cfg.get('leaf_modules_only'):
            print_log(
                f'leaf_modules_only: {len(left_out)} trainable parameters sit beside child modules and are never '
                f'trained: {", ".join(left_out)}',
                logger='current',
                level=logging.WARNING,
            )
        elif left_out or len(parameters) != len(set(parameters)):
            raise ValueError(
                f'every trainable parameter must be in one group; in none: {left_out}, in several: {len(parameters) - len(set(parameters))}'
            )

    def _build_optimizer(self, groups: list[dict[str, Any]]) -> Optimizer:
        """The torch optimizer, fused if nothing speaks against it."""
        settings = {key: value for key, value in self.optimizer_cfg.items() if key != 'type'}
        if self._torch_class() is SGD:
            # Fused SGD (torch 2.13) leaves the momentum uninitialised if the gradient scaler skips the first step, and fails
            # if a parameter gets its first gradient later than the others.
            return SGD(groups, **settings)
        settings = {'betas': (0.9, 0.99), 'weight_decay': self.base_wd, **settings}
        parameters = [parameter for group in groups for parameter in group['params']]
        fusable = all(p.device.type in FUSED_DEVICES and p.is_floating_point() for p in parameters)
        if fusable and not {'fused', 'foreach'} & set(settings):
            try:
                return AdamW([dict(group) for group in groups], fused=True, **settings)
            except RuntimeError as error:  # an older torch, or differentiable=True
                print_log(f'AdamW is not fused: {error}', logger='current')
        return AdamW(groups, **settings)
