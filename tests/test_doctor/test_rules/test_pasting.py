import pytest
import torch
from reference_recipes import PASTE, reference_fusion, reference_lidar

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.mend import changed
from bevfusion_plugin.doctor.reading.pipelines import pasting
from bevfusion_plugin.doctor.rules import pasting as paste_rules


@pytest.fixture
def lidar():
    return reference_lidar()


def test_pasting_without_images_is_taken_out():
    cfg = reference_fusion()
    assert not list(paste_rules.check_paste_has_images(Case(cfg)))
    cfg.train_dataloader.dataset.dataset.pipeline.insert(3, dict(PASTE))
    (problem,) = paste_rules.check_paste_has_images(Case(cfg))
    new = changed(cfg, problem.changes)
    assert pasting(new) is None and len(new.train_dataloader.dataset.dataset.pipeline) == 10


def test_pasting_with_images_is_fine():
    cfg = reference_fusion()
    cfg.train_dataloader.dataset.dataset.pipeline.insert(3, dict(PASTE, sample_2d=True))
    assert not list(paste_rules.check_paste_has_images(Case(cfg)))


def test_the_reference_ends_in_time(lidar):
    assert not list(paste_rules.check_paste_ends(Case(lidar))) and not list(paste_rules.check_paste_share(Case(lidar)))


@pytest.mark.parametrize(
    'hooks, epochs, ends',
    [
        ([], 20, 15),
        ([dict(type='DisableObjectSampleHook')], 8, 6),
        ([dict(type='DisableObjectSampleHook', disable_after_epoch=20)], 20, 15),
    ],
)
def test_pasting_to_the_end_is_mended_by_our_hook(lidar, hooks, epochs, ends):
    other = dict(type='EMAHook')
    lidar.custom_hooks = [other, *hooks]
    lidar.train_cfg.max_epochs = epochs
    (problem,) = paste_rules.check_paste_ends(Case(lidar))
    new = changed(lidar, problem.changes)
    assert new.custom_hooks == [other, dict(type='bevfusion_plugin.DisableObjectSampleHook', disable_after_epoch=ends)]
    assert not list(paste_rules.check_paste_ends(Case(new))) and not list(paste_rules.check_paste_share(Case(new)))


def test_other_models_on_nuscenes_are_told_and_elsewhere_left_alone(lidar):
    lidar.custom_hooks, lidar.model.type = [], 'CenterPoint'
    assert [problem.severity for problem in paste_rules.check_paste_ends(Case(lidar))] == ['info']
    lidar.train_dataloader.dataset.dataset.type = 'KittiDataset'
    assert not list(paste_rules.check_paste_ends(Case(lidar)))


@pytest.mark.parametrize('stem, count', [('epoch_17', 1), ('epoch_15', 0), ('epoch_3', 0)])
def test_mmdet3ds_hook_does_not_act_behind_its_epoch(lidar, stem, count):
    problems = list(paste_rules.check_paste_hook_survives_resume(Case(lidar, resume_from=f'work/{stem}.pth')))
    assert len(problems) == count
    if problems:
        new = changed(lidar, problems[0].changes)
        assert new.custom_hooks[0].type == 'bevfusion_plugin.DisableObjectSampleHook'
        assert not list(paste_rules.check_paste_hook_survives_resume(Case(new, resume_from=f'work/{stem}.pth')))


def test_the_epoch_is_read_from_a_checkpoint_of_another_name(lidar, tmp_path):
    torch.save(dict(meta=dict(epoch=18), state_dict={}), tmp_path / 'best.pth')
    case = Case(lidar, resume_from=str(tmp_path / 'best.pth'))
    assert paste_rules.resumed_epoch(case) == 18 and list(paste_rules.check_paste_hook_survives_resume(case))
    assert paste_rules.resumed_epoch(Case(lidar, resume_from=case.resume_from, quick=True)) is None


def test_an_unusual_end_is_a_warning(lidar):
    lidar.custom_hooks[0].disable_after_epoch = 5
    assert 'after 5 of 20' in next(paste_rules.check_paste_share(Case(lidar))).message


@pytest.mark.parametrize('epochs, usual', [(20, 15), (8, 6), (2, 1), (1, 1)])
def test_three_quarters_are_usual(epochs, usual):
    assert paste_rules.usual_paste_epochs(epochs) == usual
