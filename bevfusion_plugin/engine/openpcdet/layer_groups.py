"""Parameter groups as OpenPCDet makes them, as pure functions of the model."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def layer_groups(model: nn.Module, leaf_modules_only: bool = False) -> list[dict[str, nn.Parameter]]:
    """Two groups of trainable parameters by name: those of all other modules, those of BatchNorm modules.

    Args:
        model: The model, not wrapped. Parameters with ``requires_grad=False`` are left out.
        leaf_modules_only: Leave out parameters held by a module that has children, as OpenPCDet does. They are then never
            trained: every ``nn.MultiheadAttention.in_proj_weight`` is one.

    Returns:
        ``[not_bn, bn]``, each in traversal order; one may be empty. A parameter shared by several modules appears once, under
        the name and in the group of the first.

    Source:
        OpenPCDet tools/train_utils/optimization/__init__.py, build_optimizer, and fastai_optim.py, split_bn_bias. LayerNorm,
        GroupNorm and InstanceNorm count as other modules.
    """
    groups: list[dict[str, nn.Parameter]] = [{}, {}]
    seen = set()
    for prefix, module in model.named_modules():
        if leaf_modules_only and next(module.children(), None) is not None:
            continue
        group = groups[isinstance(module, BATCH_NORMS)]
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                group[name] = parameter
    return groups


def trainable_outside(model: nn.Module, parameters: Iterable[nn.Parameter]) -> list[str]:
    """Names of the model's trainable parameters that are not among ``parameters``."""
    covered = set(parameters)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter not in covered]
