import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn
from toy_training import ToyData, toy_loader

from bevfusion_plugin.doctor.dry_run import DryRun, dry_run, dry_run_findings


class DryRunNet(BaseModel):
    """Squared error of one layer; a second one may be left unused, and the loss may be NaN."""

    def __init__(self, idle: bool = False, poisoned: bool = False, fails: bool = False) -> None:
        super().__init__()
        self.used = nn.Linear(3, 1).double()
        self.idle = nn.Linear(3, 1) if idle else None
        self.poisoned, self.fails = poisoned, fails

    def forward(self, x, y, mode='loss'):
        if self.fails:
            raise RuntimeError('shapes do not fit')
        return dict(loss=(self.used(x) - y).square().mean() * (float('nan') if self.poisoned else 1))


@pytest.fixture(autouse=True)
def registered():
    MODELS.register_module(module=DryRunNet, force=True)
    DATASETS.register_module(module=ToyData, name='DryRunData', force=True)
    yield
    MODELS.module_dict.pop('DryRunNet')
    DATASETS.module_dict.pop('DryRunData')


def config(**model):
    return Config(
        dict(
            default_scope='mmengine',
            model=dict(type='DryRunNet', **model),
            work_dir='must/not/be/written',
            train_dataloader=toy_loader(dict(type='DryRunData')),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            param_scheduler=[dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end=2)],
        ),
        format_python_code=False,
    )


def test_it_runs_as_many_iterations_as_asked_and_shows_their_learning_rates():
    result = dry_run(config(), 3)
    assert result.learning_rates == pytest.approx([0.05, 0.1, 0.1]) and len(result.losses) == 3
    assert not [each for each in dry_run_findings(result) if each.severity == 'error'] and result.idle == [] and 0 <= result.data_share < 1


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = config()
    before = cfg.to_dict()
    dry_run(cfg, 1)
    assert not list(tmp_path.iterdir()) and cfg.to_dict() == before


def test_parameters_without_gradient_are_an_error():
    (finding,) = [each for each in dry_run_findings(dry_run(config(idle=True), 2)) if each.severity == 'error']
    assert '2 trainable parameters got no gradient in 2 iterations' in finding.message and 'idle.weight' in finding.message


def test_a_loss_that_is_no_number_is_an_error():
    (finding,) = [each for each in dry_run_findings(dry_run(config(poisoned=True), 2)) if each.severity == 'error']
    assert finding.message == 'the loss is nan in iteration 1 of 2'


def test_an_iteration_that_fails_is_an_error_and_no_crash():
    (finding,) = dry_run_findings(dry_run(config(fails=True), 2))
    assert 'stopped in iteration 1: RuntimeError: shapes do not fit' in finding.message


def test_absent_data_are_a_remark():
    cfg = config()
    cfg.train_dataloader.dataset.data_root = 'no/such/folder'
    assert dry_run(cfg, 1) is None
    (finding,) = dry_run_findings(None)
    assert (finding.severity, finding.message) == ('info', 'no iteration was run: the training data are not there')


def test_absent_weights_are_left_out_with_a_note():
    cfg = config()
    cfg.load_from = 'nowhere.pth'
    result = dry_run(cfg, 1)
    assert not result.failure and 'load_from names nowhere.pth, which does not exist' in dry_run_findings(result)[-1].message


def test_waiting_for_data_is_noticed():
    assert '50% of the time' in dry_run_findings(DryRun(losses=[1.0, 1.0], data_share=0.5))[0].message
    assert not dry_run_findings(DryRun(losses=[1.0, 1.0], data_share=0.1))


def test_no_iterations_are_refused():
    with pytest.raises(ValueError, match='at least 1 iteration, got 0'):
        dry_run(config(), 0)


def test_gradients_count_in_any_of_the_iterations():
    cfg = config()
    cfg.optim_wrapper.update(accumulative_counts=2)
    assert dry_run(cfg, 1).idle == [] and torch.is_grad_enabled()
