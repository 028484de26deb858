import json

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner
from toy_training import toy_loader

from bevfusion_plugin.visualization.training_curves import read_scalars, save_training_curves


class Line(BaseModel):
    """y = a x with a loss of two terms."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, mode):
        if mode == 'loss':
            return dict(loss_fit=(self.a * x - x).square().mean(), loss_size=0.01 * self.a.square())
        return [x]


class Score(BaseMetric):
    """Always 0.5."""

    def process(self, data_batch, data_samples):
        self.results.append(0.5)

    def compute_metrics(self, results):
        return dict(score=0.5)


def loader():
    return toy_loader([dict(x=torch.ones(1))] * 4, batch_size=1)


def train(work_dir):
    Runner(
        Line(),
        str(work_dir),
        train_dataloader=loader(),
        val_dataloader=loader(),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        val_cfg=dict(),
        val_evaluator=Evaluator(Score()),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=2), checkpoint=None),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=5.0)),
        log_level='ERROR',
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        experiment_name=work_dir.name,
    ).train()


def write_run(work_dir, timestamp, lines, name='vis_data/scalars.json'):
    path = work_dir / timestamp / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def step(number, **values):
    return dict(lr=0.1, time=1.0, epoch=1, iter=number, step=number, **values)


def test_a_stock_run_is_read_by_name_and_iteration_and_drawn(tmp_path):
    train(tmp_path)
    scalars = read_scalars(tmp_path)
    assert [number for number, _ in scalars['loss']] == [2, 4, 6, 8, 10, 12]
    assert scalars['loss'][-1][1] < scalars['loss'][0][1]
    assert scalars['lr'] == [(number, 0.1) for number in (2, 4, 6, 8, 10, 12)]
    assert scalars['val/score'] == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert len(scalars['time']) == 6 and len(scalars['val/time']) == 3
    picture = save_training_curves(tmp_path)
    assert picture == tmp_path / 'loss_curve.png' and picture.read_bytes()[:4] == b'\x89PNG'


def test_the_newest_run_with_scalars_is_taken(tmp_path):
    write_run(tmp_path, '20250101_000000', [step(1, loss=1.0)])
    write_run(tmp_path, '20250102_000000', [step(1, loss=2.0)])
    (tmp_path / '20250103_000000' / 'vis_data').mkdir(parents=True)
    write_run(tmp_path, '20250104_000000', [dict(mAP=0.5, time=0.1)], '20250104_000000.json')  # a test writes this
    write_run(tmp_path, 'pictures', [step(1, loss=9.0)])
    assert read_scalars(tmp_path)['loss'] == [(1, 2.0)]


def test_the_log_beside_scalars_json_will_do(tmp_path):
    write_run(tmp_path, '20250101_000000', [step(1, loss=1.0)], 'vis_data/20250101_000000.json')
    assert read_scalars(tmp_path)['loss'] == [(1, 1.0)]


def test_hierarchical_names_lose_their_train_prefix_and_text_is_left_out(tmp_path):
    write_run(
        tmp_path,
        '20250101_000000',
        [
            {'train/loss': 1.5, 'train/time': 1.0, 'note': 'text', 'flag': True, 'iter': 4, 'step': 4},
            {'val/mAP': 0.25, 'val/time': 2.0, 'step': 1},
        ],
    )
    assert read_scalars(tmp_path) == {
        'loss': [(4, 1.5)],
        'time': [(4, 1.0)],
        'iter': [(4, 4)],
        'val/mAP': [(1, 0.25)],
        'val/time': [(1, 2.0)],
    }


def test_the_unfinished_last_line_of_a_killed_run_is_left_out(tmp_path):
    write_run(tmp_path, '20250101_000000', [step(1, loss=1.0), '{"lr": 0.1, "lo'])
    assert read_scalars(tmp_path)['loss'] == [(1, 1.0)]


def test_a_damaged_line_before_the_last_is_named(tmp_path):
    write_run(tmp_path, '20250101_000000', [step(1, loss=1.0), '{"lr": 0.1, "lo', step(3, loss=1.0)])
    with pytest.raises(ValueError, match=r'line 2 of .*scalars.json is damaged'):
        read_scalars(tmp_path)


def test_a_folder_without_a_log_is_refused(tmp_path):
    (tmp_path / '20250103_000000').mkdir()
    with pytest.raises(FileNotFoundError, match=r'no training log in .*\(1 runs found\).*LocalVisBackend'):
        read_scalars(tmp_path)
    with pytest.raises(FileNotFoundError, match='no training log'):
        save_training_curves(tmp_path / 'nowhere')


def test_a_log_without_training_loss_is_refused(tmp_path):
    write_run(tmp_path, '20250101_000000', [dict(mAP=0.5, loss=1.0, time=1.0, step=1), step(1)])
    with pytest.raises(ValueError, match='no training loss'):
        save_training_curves(tmp_path)


def drawn(work_dir):
    """Titles and names in the picture: matplotlib writes them as comments into an SVG."""
    text = save_training_curves(work_dir, 'curves/all.svg').read_text()
    assert (work_dir / 'curves' / 'all.svg').is_file()
    return lambda name: f'<!-- {name} -->' in text


def test_every_logged_kind_gets_a_panel_and_others_none(tmp_path):
    values = {'loss_heatmap': 0.5, 'loss': 1.0, 'loss_scale': 512.0, 'beta1': 0.9, 'base_lr': 0.1, 'grad_norm': 2.0, 'memory': 7}
    write_run(tmp_path, '20250101_000000', [step(number, **values) for number in (10, 20)])
    shows = drawn(tmp_path)
    for name in ('loss', 'loss_heatmap', 'learning rate', 'lr', 'base_lr', 'beta1 / momentum', 'beta1', 'gradient norm', 'grad_norm'):
        assert shows(name), name
    for name in ('loss_scale', 'memory', 'time'):
        assert not shows(name), name


def test_panels_of_what_was_not_logged_are_left_out(tmp_path):
    write_run(tmp_path, '20250101_000000', [step(10, loss=1.0), step(20, loss=float('nan'))])
    shows = drawn(tmp_path)
    assert shows('learning rate') and not shows('gradient norm') and not shows('beta1 / momentum')


def test_losses_that_fall_a_hundredfold_are_drawn_on_a_logarithmic_axis(tmp_path):
    write_run(tmp_path, '20250101_000000', [step(10, loss=1200.0), step(20, loss=5.0)])
    assert drawn(tmp_path)(r'$\mathdefault{10^{2}}$')
    write_run(tmp_path, '20250101_000000', [step(10, loss=9.0), step(20, loss=5.0)])
    assert not drawn(tmp_path)(r'$\mathdefault{10^{2}}$')
