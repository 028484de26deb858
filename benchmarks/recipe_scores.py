"""Scores of a finished run of benchmarks/recipe.py, by BatchNorm statistics of its final weights.

    python benchmarks/recipe_scores.py work_dirs/recipe/lr_0.004/a_seed_0   # writes scores.json there

The running statistics move by 1 % a forward pass, and a run here makes 144 to 480 of them: those of the early weights would still be in
them, more so the larger the micro-batch. What a recipe learnt is to be compared, so they are made anew, for all runs alike.

Source: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3.1 (precise BatchNorm).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from recipe_variants import REFERENCE_BATCH, TRAINING_SAMPLES
from torch import nn

import bevfusion_plugin  # noqa: F401  allows MMEngine's checkpoints to be loaded

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


def score(folder: Path) -> dict[str, float]:
    """mAP and NDS of the run's last checkpoint on the held-out scenes."""
    cfg = Config.fromfile(folder / 'config.py')
    cfg.update(work_dir=str(folder / 'scoring'), load_from=(folder / 'last_checkpoint').read_text(), randomness=dict(seed=0))
    cfg.train_dataloader.batch_size = REFERENCE_BATCH
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    loader = iter(runner.build_dataloader(cfg.train_dataloader, seed=0))
    renew_norms(runner.model, [next(loader) for _ in range(TRAINING_SAMPLES // REFERENCE_BATCH)])
    return {name.split('/')[-1]: value for name, value in runner.val().items() if name.endswith(('/mAP', '/NDS'))}


if __name__ == '__main__':
    run = Path(sys.argv[1])
    (run / SCORES).write_text(json.dumps(score(run)))
