"""Scores of a finished run of benchmarks/recipe.py on the held-out scenes, after some epochs and at the end.

    cd benchmarks && python -m batch_study.scores ../work_dirs/recipe/a_lr_0.004_seed_0 --epochs 2 4 6   # writes scores.json there

The last checkpoint is scored twice: with the running statistics of its BatchNorms as they are, which is what a user tests, and with
statistics made anew by its final weights, which tells what is the weights' doing and what the statistics'.

Source: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3.1 (precise BatchNorm).
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner, ValLoop
from torch import nn

import bevfusion_plugin  # noqa: F401  allows MMEngine's checkpoints to be loaded

from batch_study.variants import FOLDERS, REFERENCE_BATCH, TRAINING_SAMPLES

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
SCORES = 'scores.json'


@torch.no_grad()
def renew_norms(model: nn.Module, batches: list[dict]) -> None:
    """Replace the running statistics of every BatchNorm by the mean of those of ``batches``, as the collate function gives them."""
    for norm in (module for module in model.modules() if isinstance(module, NORMS)):
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's word for the plain mean of all batches
    model.train()
    for batch in batches:
        model(**model.data_preprocessor(batch, training=True), mode='loss')


def build_runner(folder: Path) -> Runner:
    """The run's model, and what loads its training data in the reference's micro-batches."""
    cfg = Config.fromfile(folder / 'config.py')
    cfg.update(work_dir=str(folder / 'scoring'), randomness=dict(seed=0))
    cfg.train_dataloader.batch_size = REFERENCE_BATCH
    return Runner.from_cfg(cfg)


def validation_loops(runner: Runner) -> list[ValLoop]:
    """One for the held-out scenes of each folder of the data."""
    loops = []
    for folder in range(FOLDERS):
        loader, evaluator = runner.cfg.val_dataloader.copy(), runner.cfg.val_evaluator.copy()
        root = str(Path(evaluator.data_root).parent / str(folder))
        loader.dataset = dict(loader.dataset, data_root=root)
        evaluator.update(data_root=root, ann_file=f'{root}/nuscenes_infos_val.pkl')
        loops.append(ValLoop(runner, loader, evaluator))
    return loops


def score(loops: list[ValLoop]) -> dict[str, float]:
    """mAP and NDS of the runner's model, the mean over the folders' held-out scenes."""
    found = [{name.split('/')[-1]: value for name, value in loop.run().items()} for loop in loops]
    return {name: round(float(np.mean([one[name] for one in found])), 4) for name in ('mAP', 'NDS')}


def main(folder: Path, epochs: list[int]) -> None:
    """Write the scores of ``epochs``, the last of which is the run's last, and those with renewed statistics."""
    runner = build_runner(folder)
    loops = validation_loops(runner)
    scores = {}
    for epoch in epochs:
        runner.load_checkpoint(str(folder / f'epoch_{epoch}.pth'))
        scores[str(epoch)] = score(loops)
    loader = runner.build_dataloader(runner.cfg.train_dataloader, seed=0)
    renew_norms(runner.model, list(islice(loader, TRAINING_SAMPLES // REFERENCE_BATCH)))
    (folder / SCORES).write_text(json.dumps(dict(epochs=scores, renewed=score(loops))))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--epochs', type=int, nargs='+', required=True)
    args = parser.parse_args()
    main(args.folder.resolve(), args.epochs)
