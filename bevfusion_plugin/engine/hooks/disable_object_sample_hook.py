"""Ends the pasting of objects after some epochs, also in a resumed run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from bevfusion_plugin.plan.checked_settings import whole_number
from bevfusion_plugin.registry import HOOKS


def switchable_transforms(dataset: Any) -> Iterator[Any]:
    """Transforms with a ``disabled`` switch in the pipelines of the data sets inside all wrappers, ConcatDataset's too."""
    if hasattr(dataset, 'pipeline'):
        yield from (transform for transform in dataset.pipeline.transforms if hasattr(transform, 'disabled'))
        return
    inner = [*getattr(dataset, 'datasets', ()), *([dataset.dataset] if hasattr(dataset, 'dataset') else [])]
    for each in inner:  # CBGSDataset, RepeatDataset, ConcatDataset, ...
        yield from switchable_transforms(each)


@HOOKS.register_module()
class DisableObjectSampleHook(Hook):
    """Switches mmdet3d's ``ObjectSample`` off from an epoch on.

    mmdet3d's hook of that name acts at one epoch only, so a run resumed behind it goes on pasting, and it looks through one data
    set wrapper only.

    Args:
        disable_after_epoch: Epochs that paste; epoch number ``disable_after_epoch`` (from 0) is the first without.

    Raises:
        ValueError: If it is negative, or (at the start of training) if no transform of the pipeline can be switched off, or if
            the loop counts iterations.

    Source:
        The fade strategy of PointAugmenting, Wang et al. 2021; TransFusion, Bai et al. 2022 (arXiv 2203.11496), section 5.
    """

    def __init__(self, disable_after_epoch: int = 15) -> None:
        self.disable_after_epoch = whole_number('disable_after_epoch', disable_after_epoch, 0)

    def before_train(self, runner: Runner) -> None:
        """Check that there is something to switch off, and a time to do it."""
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(
                'DisableObjectSampleHook acts at the start of an epoch, and IterBasedTrainLoop has only one; train with '
                'train_cfg.by_epoch=True, or take the hook out of custom_hooks'
            )
        if not list(switchable_transforms(runner.train_dataloader.dataset)):
            raise ValueError('DisableObjectSampleHook: the training pipeline has no ObjectSample; take the hook out of custom_hooks')

    def before_train_epoch(self, runner: Runner) -> None:
        """Switch off once, and have the workers started anew so that they see it."""
        loader = runner.train_dataloader
        active = [transform for transform in switchable_transforms(loader.dataset) if not transform.disabled]
        if runner.epoch < self.disable_after_epoch or not active:
            return
        for transform in active:
            transform.disabled = True
        loader._iterator = None  # persistent workers hold a copy of the data set
        runner.logger.info(f'epoch {runner.epoch + 1}: no more objects are pasted')
