"""What MM's command-line flags change in a config."""
from __future__ import annotations

from pathlib import Path

from mmengine.config import Config, ConfigDict

from bevfusion_plugin.doctor.reading.config import SCALE_HOOK, short_name
from bevfusion_plugin.engine.checkpoints.resuming import checkpoint_seed
from bevfusion_plugin.plan.batch_plan import RULES
from bevfusion_plugin.plan.checked_settings import one_of

AMP_WRAPPER = 'bevfusion_plugin.AccumulativeAmpOptimWrapper'


def set_work_dir(cfg: Config, work_dir: str | None) -> None:
    """Where the run is written: the flag, else the config's ``work_dir``, else ``work_dirs/<config name>``."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = f'work_dirs/{Path(cfg.filename).stem}'


def set_resume(cfg: Config, resume: str | None) -> None:
    """``'auto'``: from the newest checkpoint in the work dir, or from the start if it has none; a path: from that file; None: as
    the config says.

    A resumed run goes on with the seed of its checkpoint unless the config has one: the order of the samples follows from it.

    Raises:
        FileNotFoundError: If the path does not exist.
    """
    if resume is None:
        return
    if resume != 'auto' and not Path(resume).is_file():
        raise FileNotFoundError(f'--resume: there is no checkpoint {resume}; `--resume` alone takes the newest of the work dir')
    newest = Path(cfg.work_dir) / 'last_checkpoint'
    if resume == 'auto' and not newest.is_file():
        return  # with resume=True MMEngine would go on from load_from, the checkpoint of another training
    cfg.resume = True
    cfg.load_from = None if resume == 'auto' else resume
    if (cfg.get('randomness') or {}).get('seed') is None:
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=checkpoint_seed(newest.read_text() if resume == 'auto' else resume))


def set_seed(cfg: Config, seed: int) -> None:
    """The seed of all random numbers; what else the config says of randomness stays."""
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)


def set_amp(cfg: Config) -> None:
    """Half precision with a dynamic loss scale, through this package's wrapper.

    Raises:
        ValueError: If the config's wrapper is neither MMEngine's nor ours.
    """
    wrapper = cfg.optim_wrapper
    kinds = ('OptimWrapper', 'AmpOptimWrapper', AMP_WRAPPER.split('.')[-1])
    name = short_name(dict(dict(type='OptimWrapper'), **wrapper))
    if name not in kinds:
        raise ValueError(f'--amp does not know the optimizer wrapper {name!r}; it takes {", ".join(kinds)}')
    wrapper.update(type=AMP_WRAPPER, dtype='float16')
    wrapper.setdefault('loss_scale', 'dynamic')


def set_auto_scale_lr(cfg: Config, rule: str) -> None:
    """Switch LR scaling on with this rule, and bring the hook that does it if the config lacks it.

    Raises:
        ValueError: If the rule is unknown, or the config does not say what batch its LR was tuned for.
    """
    one_of('--auto-scale-lr', rule, tuple(RULES))
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if not isinstance(base, int) or base < 1:
        raise ValueError(f'--auto-scale-lr needs auto_scale_lr.base_batch_size, the total batch the LR was tuned for, got {base!r}; add '
                         '--cfg-options auto_scale_lr.base_batch_size=32')
    cfg.auto_scale_lr.update(enable=True, rule=rule)
    hooks = list(cfg.get('custom_hooks') or [])
    if not any(short_name(hook) == SCALE_HOOK.split('.')[-1] for hook in hooks if isinstance(hook, dict)):
        cfg.custom_hooks = hooks + [ConfigDict(type=SCALE_HOOK)]
