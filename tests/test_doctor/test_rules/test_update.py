import pytest
from mmengine.config import Config
from torch import nn

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.finding import RULES
from bevfusion_plugin.doctor.rules import update as update_rules  # noqa: F401  enters the rules

OURS = 'bevfusion_plugin.AccumulativeAmpOptimWrapper'
MONITOR = dict(type='bevfusion_plugin.TrainingMonitorHook')
BEVFUSION = dict(type='BEVFusion', pts_middle_encoder=dict(type='BEVFusionSparseEncoder'))


def recipe(kind='AmpOptimWrapper', optimizer=None, clip_grad=dict(max_norm=35, norm_type=2), model=BEVFUSION, **more):
    wrapper = dict(type=kind, optimizer=optimizer or dict(type='AdamW', lr=2e-4), clip_grad=clip_grad)
    return Config(
        dict(
            optim_wrapper=wrapper,
            model=model,
            train_dataloader=dict(batch_size=4),
            train_cfg=dict(by_epoch=True, max_epochs=6, val_interval=1),
            val_dataloader=dict(batch_size=1),
        )
        | more
    )


def problems(name, cfg):
    return list(RULES[name].check(Case(cfg, 4)))


def mended(cfg, problem):
    new = Config(cfg.to_dict())
    new.merge_from_dict(problem.changes)
    return new


def test_the_smallest_adam_eps_is_mentioned_where_sparse_convolutions_run_in_half_precision():
    (problem,) = problems('small-adam-eps', recipe())
    assert 'model.pts_middle_encoder' in problem.message and 'eps=1e-08' in problem.message
    for fine in (
        recipe('OptimWrapper'),
        recipe(optimizer=dict(type='AdamW', eps=1e-4)),
        recipe(optimizer=dict(type='SGD')),
        recipe(model=dict(type='FCOS3D')),
    ):
        assert not problems('small-adam-eps', fine)


def test_skipped_updates_must_be_counted_in_half_precision():
    (problem,) = problems('unwatched-float16', recipe())
    assert 'AmpOptimWrapper does not count them' in problem.message
    ours = recipe(OURS)
    (problem,) = problems('unwatched-float16', ours)
    assert not problems('unwatched-float16', mended(ours, problem))
    assert not problems('unwatched-float16', recipe(OURS, custom_hooks=[MONITOR]))
    assert not problems('unwatched-float16', recipe('OptimWrapper'))


@pytest.mark.parametrize('clip', [None, dict(max_norm=10), dict(type='value', clip_value=1.0), 35])
def test_bevfusion_without_its_clipping_gets_a_warning(clip):
    cfg = recipe(clip_grad=clip)
    (problem,) = problems('gradient-clipping', cfg)
    assert problem.changes == {'optim_wrapper.clip_grad': dict(max_norm=35, norm_type=2)}


def test_the_clipping_of_other_models_is_their_own_affair():
    assert not problems('gradient-clipping', recipe(clip_grad=None, model=dict(type='CenterPoint')))
    assert not problems('gradient-clipping', recipe())


def checkpoints(**settings):
    return dict(checkpoint=dict(type='CheckpointHook', **settings))


@pytest.mark.parametrize(
    'more, words',
    [
        (dict(default_hooks=checkpoints(interval=1, max_keep_ckpts=1)), 'max_keep_ckpts is 1'),
        (dict(default_hooks=checkpoints(interval=2)), 'a validation every 1 and a checkpoint every 2'),
        (dict(val_dataloader=dict(batch_size=4)), 'batch_size is 4'),
    ],
)
def test_what_loses_checkpoints_or_changes_scores_is_mentioned(more, words):
    cfg = recipe(**more)
    (problem,) = problems('validation-and-checkpoints', cfg)
    assert words in problem.message and not problems('validation-and-checkpoints', mended(cfg, problem))


@pytest.mark.parametrize(
    'more',
    [
        dict(),
        dict(default_hooks=checkpoints(interval=5), train_cfg=dict(max_epochs=20, val_interval=5)),
        dict(default_hooks=checkpoints(interval=2), train_cfg=dict(max_epochs=6, val_interval=6)),  # the last one is kept anyway
        dict(default_hooks=checkpoints(interval=1000, by_epoch=False)),
        dict(default_hooks=checkpoints(interval=2), val_dataloader=None),
    ],
)
def test_usual_intervals_are_fine(more):
    assert not problems('validation-and-checkpoints', recipe(**more))


class Named(nn.Module):
    """Parameters named as a detector's."""

    def __init__(self):
        super().__init__()
        self.pts_backbone, self.pts_middle_encoder = nn.Linear(1, 1), nn.Linear(1, 1)


def with_keys(keys, constructor='DefaultOptimWrapperConstructor'):
    cfg = recipe(model=dict(type=f'{__name__}.Named'))
    cfg.optim_wrapper.update(constructor=constructor, paramwise_cfg=dict(custom_keys=keys))
    return cfg


def test_custom_keys_that_do_nothing_are_named(monkeypatch):
    monkeypatch.setattr(Case, 'model_state', property(lambda case: Named().state_dict()))
    found = problems('custom-keys', with_keys({'pts_middle_encoder': dict(requires_grad=False), 'pts_backbone': dict(lr_mul=0.1)}))
    assert [
        "custom_keys['pts_middle_encoder'] sets requires_grad" in found[0].message,
        "['pts_backbone'] sets lr_mul" in found[1].message,
        len(found),
    ] == [True, True, 2]
    (problem,) = problems('custom-keys', with_keys({'pts_bakbone': dict(lr_mult=0.1)}, 'bevfusion_plugin.OpenPCDetOptimWrapperConstructor'))
    assert problem.severity == 'warning' and "custom_keys['pts_bakbone'] is part of no parameter's name" in problem.message


def test_custom_keys_that_are_read_are_fine(monkeypatch):
    monkeypatch.setattr(Case, 'model_state', property(lambda case: Named().state_dict()))
    assert not problems('custom-keys', with_keys({'pts_backbone': dict(lr_mult=0.1, decay_mult=0, betas=(0.9, 0.9))}))
