"""Refuses to start from a checkpoint that belongs to another model."""
from __future__ import annotations

from collections.abc import Mapping

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

from bevfusion_plugin.registry import HOOKS


def unmatched_keys(loaded: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> list[str]:
    """What does not fit, one line a tensor: absent from the model, or of other sizes.

    The order of the axes does not count, since sparse convolutions are stored in two layouts and turned while they load.
    """
    problems = []
    for key, value in loaded.items():
        if key not in model:
            problems.append(f'{key}: not in the model')
        elif sorted(value.shape) != sorted(model[key].shape):
            problems.append(f'{key}: {tuple(value.shape)} in the checkpoint, {tuple(model[key].shape)} in the model')
    return problems


@HOOKS.register_module()
class CheckpointMatchHook(Hook):
    """Stops before training if less than ``min_share`` of a checkpoint's tensors fit the model.

    MMEngine loads what fits and only warns about the rest, so a wrong file means training from random weights. A lidar-stage
    checkpoint fits a lidar+camera model whole: what the checkpoint lacks (the camera branch) is no mismatch.

    Args:
        min_share: Least share of the checkpoint's tensors that must be in the model with the same sizes.
    """

    def __init__(self, min_share: float = 0.95) -> None:
        if not 0 <= min_share <= 1:
            raise ValueError(f'min_share must lie in [0, 1], got {min_share}')
        self.min_share = min_share

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the keys, before MMEngine copies the tensors.

        Raises:
            ValueError: If too few fit; the message names the first that do not.
        """
        loaded = checkpoint.get('state_dict', checkpoint)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        problems = unmatched_keys(loaded, model.state_dict())
        share = 1 - len(problems) / max(len(loaded), 1)
        if share < self.min_share:
            shown = '\n'.join(f'    {line}' for line in problems[:5])
            raise ValueError(f'only {share:.0%} of the {len(loaded)} tensors in the checkpoint fit the model '
                             f'(at least {self.min_share:.0%} should); it is of another architecture. First of '
                             f'{len(problems)} that do not:\n{shown}\nSet load_from to a checkpoint of this model, or to None')
