"""Refuses to start from a checkpoint that belongs to another model."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from bevfusion_plugin.engine.checkpoints.matching import MIN_SHARE, unmatched_keys
from bevfusion_plugin.plan.checked_settings import checked_share
from bevfusion_plugin.registry import HOOKS


@HOOKS.register_module()
class CheckpointMatchHook(Hook):
    """Stops before training if less than ``min_share`` of a checkpoint's tensors fit the model.

    MMEngine loads what fits and only warns about the rest, so a wrong file means training from random weights. A lidar-stage
    checkpoint fits a lidar+camera model whole: what the checkpoint lacks (the camera branch) is no mismatch.

    Args:
        min_share: Least share of the checkpoint's tensors that must be in the model with the same sizes.
    """

    def __init__(self, min_share: float = MIN_SHARE) -> None:
        self.min_share = checked_share('min_share', min_share)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the keys, before MMEngine copies the tensors.

        Raises:
            ValueError: If too few fit; the message names the first that do not.
        """
        # As MMEngine's loading takes them: a checkpoint of a wrapped model has the wrapper's name before each.
        loaded = {name.removeprefix('module.'): value for name, value in checkpoint.get('state_dict', checkpoint).items()}
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        problems = unmatched_keys(loaded, model.state_dict())
        share = 1 - len(problems) / max(len(loaded), 1)
        if share < self.min_share:
            shown = '\n'.join(f'    {line}' for line in problems[:5])
            raise ValueError(
                f'only {share:.0%} of the {len(loaded)} tensors in the checkpoint fit the model '
                f'(at least {self.min_share:.0%} should); it is of another architecture. First of '
                f'{len(problems)} that do not:\n{shown}\nSet load_from to a checkpoint of this model, or to None'
            )
