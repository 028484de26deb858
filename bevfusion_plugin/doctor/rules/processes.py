"""Rules about the processes of a run: how they reach each other, what they wait for, how long, and what they draw alike."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import torch

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.finding import MMENGINE, Problem, rule
from bevfusion_plugin.doctor.missing import will_validate
from bevfusion_plugin.doctor.reading.config import count, dataset_wrappers, entries, mapping, number, short_name

LONGEST_EVALUATION = 3600  # seconds; 1,390 s of formatting alone were reported, the metric itself comes on top
ENOUGH = 7200


@rule('evaluation-outlasts-timeout', 'warning', 'https://github.com/open-mmlab/mmdetection3d/issues/2809')
def check_timeout(case: Case) -> Iterator[Problem]:
    """Ranks that give up while the first one still evaluates nuScenes.

    torch waits 10 minutes for a collective of nccl since 2.2, and 30 minutes before, and with other backends.
    """
    group = mapping(mapping(case.cfg.get('env_cfg')).get('dist_cfg'))
    names = {short_name(each) for key in ('val_evaluator', 'test_evaluator') for each in entries(case.cfg.get(key))}
    if case.world_size < 2 or 'NuScenesMetric' not in names or not will_validate(case.cfg):
        return
    seconds = number(group.get('timeout'))
    if seconds is None or seconds < LONGEST_EVALUATION:
        said = 'is not set, so they wait 10 minutes (nccl, torch 2.2 and above)' if seconds is None else f'is {seconds:g} s'
        yield Problem(
            f'the other ranks wait while the first one evaluates nuScenes, which has taken over 20 minutes; '
            f'env_cfg.dist_cfg.timeout {said}, and then the run is aborted',
            f'set env_cfg.dist_cfg.timeout={ENOUGH} (seconds)',
            {'env_cfg.dist_cfg.timeout': ENOUGH},
        )


@rule('ranks-of-unequal-length', 'error', f'{MMENGINE}/dataset/sampler.py#L60')
def check_lengths(case: Case) -> Iterator[Problem]:
    """A sampler that gives the ranks different numbers of micro-batches: the exchange of gradients would pair wrong ones, then hang."""
    loader = mapping(case.cfg.get('train_dataloader'))
    sampler, b = mapping(loader.get('sampler')), count(loader.get('batch_size'))
    if case.world_size < 2 or short_name(sampler) != 'DefaultSampler' or sampler.get('round_up', True) or not b:
        return
    said = 'may differ by one'
    if case.samples:
        shares = -(-case.samples // case.world_size), case.samples // case.world_size
        most, fewest = (share // b if loader.get('drop_last') else -(-share // b) for share in shares)
        if most == fewest:
            return
        said = f'are {most:,} or {fewest:,}'
    yield Problem(
        f'train_dataloader.sampler.round_up=False: the micro-batches of an epoch {said} on {case.world_size} ranks, and each waits for '
        'the others in every one',
        'leave round_up out: the ranks then get as many samples each',
        {'train_dataloader.sampler.round_up': True},
    )


@rule('rank-seeds-differ', 'error', 'mmdet3d/datasets/dataset_wrappers.py, CBGSDataset._get_sample_indices')
def check_rank_seeds(case: Case) -> Iterator[Problem]:
    """Ranks that would each draw another class-balanced list."""
    wrappers = {short_name(wrapper) for wrapper in dataset_wrappers(case.cfg)}
    if 'CBGSDataset' in wrappers and mapping(case.cfg.get('randomness')).get('diff_rank_seed'):
        yield Problem(
            'randomness.diff_rank_seed=True: every rank draws its own class-balanced list, and the sampler then deals '
            'out shares of lists that differ',
            'set it to False',
            {'randomness.diff_rank_seed': False},
        )


@rule('no-peer-to-peer', 'warning', 'https://github.com/NVIDIA/nccl-tests/issues/117')
def check_peer_to_peer(case: Case) -> Iterator[Problem]:
    """Several ranks on GPUs that do not reach each other's memory, which nccl may try all the same.

    NVIDIA made no GeForce of the 40 series with peer-to-peer transfers; with some drivers they are announced, and nccl hangs.
    ``NCCL_P2P_DISABLE`` in the environment, whatever its value, says that somebody has decided.
    """
    backend = mapping(mapping(case.cfg.get('env_cfg')).get('dist_cfg')).get('backend', 'nccl')
    if (case.ranks_here or case.world_size) < 2 or backend != 'nccl' or 'NCCL_P2P_DISABLE' in os.environ or not torch.cuda.is_available():
        return
    names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
    found = sorted(name for name in names if re.search(r'GeForce RTX 40\d\d', name))
    if found:
        yield Problem(
            f'{", ".join(found)}: these cards do not reach each other\'s memory (no peer-to-peer), and nccl can hang at the '
            'start when the driver says otherwise',
            'set NCCL_P2P_DISABLE=1 in the environment (0 if your driver is patched for it: then nothing is said any more)',
        )
