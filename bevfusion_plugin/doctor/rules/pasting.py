"""Rules about pasted objects (``ObjectSample``): where they may be, and when they have to stop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.finding import Problem, rule
from bevfusion_plugin.doctor.reading.config import entries, innermost_dataset, is_ours, mapping, max_epochs, short_name
from bevfusion_plugin.doctor.reading.model import has_cameras, is_bevfusion, sees_lidar
from bevfusion_plugin.doctor.reading.nuscenes import is_nuscenes
from bevfusion_plugin.doctor.reading.pipelines import PASTE, pasting

HOOK = 'DisableObjectSampleHook'
OUR_HOOK = f'bevfusion_plugin.{HOOK}'
PASTE_SHARE = 0.75  # 15 of 20 epochs


def paste_hook(case: Case) -> dict[str, Any] | None:
    """The hook that ends the pasting."""
    return next((hook for hook in entries(case.cfg.get('custom_hooks')) if short_name(hook) == HOOK), None)


def last_paste_epoch(hook: dict[str, Any]) -> int:
    """Epochs with pasted objects.

    Raises:
        ValueError: If it is no number of epochs.
    """
    epoch = hook.get('disable_after_epoch', 15)  # the default of mmdet3d's hook and of ours
    if isinstance(epoch, bool) or not isinstance(epoch, int):
        raise ValueError(f'{HOOK}.disable_after_epoch must be an int, got {epoch!r}')
    return epoch


def usual_paste_epochs(epochs: int) -> int:
    """Three quarters of the training, and one epoch at least without pasting if there are two."""
    return max(1, min(round(PASTE_SHARE * epochs), epochs - 1))


def with_our_hook(case: Case, paste_epochs: int) -> dict[str, list]:
    """What to write for ``custom_hooks``: our hook in place of any other that ends the pasting."""
    others = [hook for hook in entries(case.cfg.get('custom_hooks')) if short_name(hook) != HOOK]
    return dict(custom_hooks=[*map(dict, others), dict(type=OUR_HOOK, disable_after_epoch=paste_epochs)])


@rule(
    'paste-without-images',
    'error',
    'https://github.com/mit-han-lab/bevfusion/blob/main/configs/nuscenes/det/transfusion/secfpn/camera%2Blidar/default.yaml',
)
def check_paste_has_images(case: Case) -> Iterator[Problem]:
    """Objects that the lidar sees and the cameras do not."""
    found = pasting(case.cfg)
    if found is None or not (has_cameras(case.cfg) and sees_lidar(case.cfg)):
        return
    if any(not step.get('sample_2d') for step in found.named(PASTE)):
        yield Problem(
            'the training pipeline pastes objects into the point cloud that are in no image: the cameras learn to see '
            'nothing there. All reference recipes with cameras train without pasting',
            f'take {PASTE} out of the training pipeline',
            found.rewritten(lambda step: None if short_name(step) == PASTE and not step.get('sample_2d') else step),
        )


@rule('paste-never-ends', 'error', 'https://github.com/XuyangBai/TransFusion/issues/37')
def check_paste_ends(case: Case) -> Iterator[Problem]:
    """Pasting up to the last epoch."""
    epochs = max_epochs(case.cfg)
    if pasting(case.cfg) is None or epochs is None or has_cameras(case.cfg):
        return
    hook = paste_hook(case)
    mend = f'add dict(type={OUR_HOOK!r}, disable_after_epoch={usual_paste_epochs(epochs)}) to custom_hooks'
    if hook is not None and last_paste_epoch(hook) >= epochs and epochs > 1:
        yield Problem(
            f'{HOOK}(disable_after_epoch={last_paste_epoch(hook)}) never acts in a training of {epochs} epochs: '
            'objects are pasted to the end (55.7 instead of 65.1 mAP for TransFusion)',
            mend,
            with_our_hook(case, usual_paste_epochs(epochs)),
        )
    elif hook is None and is_bevfusion(case.cfg) and epochs > 1:
        yield Problem(
            'objects are pasted to the end of the training (55.7 instead of 65.1 mAP for TransFusion)',
            mend,
            with_our_hook(case, usual_paste_epochs(epochs)),
        )
    elif hook is None and is_nuscenes(innermost_dataset(case.cfg)):
        yield Problem(
            'objects are pasted to the end of the training; on nuScenes other models gained 3 to 9 mAP by stopping for the last epochs',
            mend,
            severity='info',
        )


@rule('paste-hook-against-resume', 'error', 'mmdet3d/engine/hooks/disable_object_sample_hook.py, before_train_epoch')
def check_paste_hook_survives_resume(case: Case) -> Iterator[Problem]:
    """mmdet3d's hook acts at one epoch only; a run resumed behind it pastes again."""
    hook = paste_hook(case)
    if pasting(case.cfg) is None or hook is None or is_ours(hook) or not case.resume_from:
        return
    epoch = resumed_epoch(case)
    if epoch is not None and epoch > last_paste_epoch(hook):
        yield Problem(
            f"mmdet3d's {HOOK} acts at epoch {last_paste_epoch(hook)} only, and {case.resume_from} resumes at epoch "
            f"{epoch}: "
            'objects would be pasted again',
            f'use {OUR_HOOK}, which also acts after a resume',
            with_our_hook(case, last_paste_epoch(hook)),
        )


def resumed_epoch(case: Case) -> int | None:
    """The epoch (from 0) that a resumed run starts with: from the file's name or what it stores; None if neither tells."""
    if case.resume_from is None:
        return None
    named = re.fullmatch(r'epoch_(\d+)', Path(case.resume_from).stem)
    if named:
        return int(named[1])
    if case.quick:
        return None
    meta = mapping(mapping(torch.load(case.resume_from, map_location='cpu', weights_only=True)).get('meta'))
    return meta.get('epoch')


@rule('paste-end-unusual', 'warning', 'https://github.com/junjie18/CMT/issues/79')
def check_paste_share(case: Case) -> Iterator[Problem]:
    """Pasting that ends far from three quarters of the training."""
    hook, epochs = paste_hook(case), max_epochs(case.cfg)
    if pasting(case.cfg) is None or hook is None or epochs is None:
        return
    usual = usual_paste_epochs(epochs)
    if last_paste_epoch(hook) < epochs and abs(last_paste_epoch(hook) - usual) > 0.1 * epochs:
        yield Problem(
            f'pasting ends after {last_paste_epoch(hook)} of {epochs} epochs; the reference ends after 15 of 20',
            f'set disable_after_epoch={usual}',
        )
