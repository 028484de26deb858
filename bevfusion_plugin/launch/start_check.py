"""The examination in front of a run: the doctor's quick rules at error level, on the run as it was started."""

from __future__ import annotations

import logging
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.examination import all_rules, examine, findings_of
from bevfusion_plugin.doctor.finding import RULES
from bevfusion_plugin.doctor.findings_table import findings_table
from bevfusion_plugin.doctor.reading.config import entries
from bevfusion_plugin.engine.checkpoints.checked_loading import load_checked
from bevfusion_plugin.launch.command_line import UsageError
from bevfusion_plugin.launch.ranks import number_of_ranks, rank_of, ranks_here


NEEDED = {
    True: ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'),
    False: ('model', 'test_dataloader', 'test_cfg', 'test_evaluator'),
}


def check_whole(cfg: Config, training: bool = True) -> None:
    """Make sure that a config has what its run is made of: MMEngine's None means that there is none.

    Args:
        cfg: The whole config; it is not changed.
        training: Whether it is a training, or the test of a checkpoint.

    Raises:
        UsageError: Naming what is None, not set, or no settings at all.
    """
    lacking = [key for key in NEEDED[training] if cfg.get(key) is None]
    if lacking:
        raise UsageError(
            f'{", ".join(lacking)}: None or not set, so there is nothing to {"train" if training else "test"}; '
            f'set {", ".join(lacking)} in {cfg.filename}'
        )
    for key in NEEDED[training]:
        if not isinstance(cfg[key], dict) and not entries(cfg[key]):
            raise UsageError(f'{key} must be a dict, got {cfg[key]!r}; write {key} = dict(...)')


def check_start(cfg: Config, training: bool = True, needs_only: bool = False, ranks: int | None = None) -> None:
    """Make sure, before anything is built, that the run can start, and that its training would come out right.

    Args:
        cfg: The whole config, with the ``launcher`` it is started by; it is not changed.
        training: Whether it is a training; for the test of a checkpoint only what that needs is asked.
        needs_only: Leave out whether the training would come out right.
        ranks: Processes that are about to be started, all on this machine; None: those that the launcher has started.

    Raises:
        UsageError: With everything that is missing or wrong, and how to mend it.
        BrokenCheckpoint: If the weights to start from are damaged or would run code.
    """
    copied = Config(cfg.to_dict(), filename=cfg.filename, format_python_code=False)  # with types by their names
    launcher = cfg.get('launcher', 'none')
    case = Case(
        copied,
        ranks or number_of_ranks(launcher),
        cfg.get('load_from') if cfg.get('resume') else None,
        quick=True,
        starting='train' if training else 'test',
        ranks_here=ranks or ranks_here(launcher),
    )
    if case.world_size > 1 and rank_of(launcher) == 0 and ranks is None:
        for finding in findings_of(all_rules()['no-peer-to-peer'], case):  # a warning, but the run may hang before it says anything else
            print_log(f'{finding.message}; {finding.mend}', 'current', logging.WARNING)
    findings = examine(case, 'error', needs_only=needs_only or not training)
    needs = [finding for finding in findings if RULES[finding.rule].is_need]
    wrong = [finding for finding in findings if finding not in needs]
    parts = []
    if wrong:
        parts.append(
            f'{findings_table(wrong)}\nThis run would go wrong. `python tools/doctor.py {cfg.filename} --gpus {case.world_size} '
            '--fix OUT.py` writes a mended config; --no-doctor starts it as it is'
        )
    if needs:
        parts.append('this run cannot start:\n' + '\n'.join(f'- {finding.message}; {finding.mend}' for finding in needs))
    if parts:
        raise UsageError('\n'.join(parts))
    weights = cfg.get('load_from')
    resumes = training and cfg.get('resume')  # --resume has looked at its file
    if isinstance(weights, str) and '://' not in weights and not resumes:
        load_checked(Path(weights).expanduser(), 'cpu')
