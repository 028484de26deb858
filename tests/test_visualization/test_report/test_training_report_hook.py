"""The hook in real trainings: tiny models on MMEngine's Runner."""

import json
import re
import subprocess
import sys
import warnings

import pytest
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from toy_training import toy_runner, validation_loader

from bevfusion_plugin.visualization.report import training_report_hook
from bevfusion_plugin.visualization.report.run_record import Diagnosis
from bevfusion_plugin.visualization.report.series import six_digits


class Score(BaseMetric):
    """mAP 0.25, 0.5, ...: a quarter more every validation."""

    def __init__(self):
        super().__init__()
        self.validations = 0

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        self.validations += 1
        return dict(mAP=0.25 * self.validations)


class Watch(Hook):
    """What the page said at each moment."""

    priority = 'LOWEST'

    def __init__(self, page):
        self.page, self.seen = page, []

    def after_val_epoch(self, runner, metrics=None):
        self.seen.append(figures(self.page))


def figures(page):
    """The charts in the page, {title: {name: [x, y]}}."""
    text = page.read_text()
    charts = json.loads(re.search(r'<script type="application/json" id="charts">(.*?)</script>', text, re.DOTALL)[1])
    titles = re.findall(r'<section class="card"><h3>(.*?)</h3>', text)
    return {title: {trace['name']: [trace['x'], trace['y']] for trace in chart['data']} for title, chart in zip(titles, charts)}


def training(work_dir, *hooks, backends=('LocalVisBackend',), **report):
    """Two epochs of 8 micro-batches, each followed by a validation."""
    loader = validation_loader()
    return toy_runner(
        work_dir,
        val_dataloader=loader,
        val_cfg=dict(),
        val_evaluator=Evaluator(Score()),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type=backend) for backend in backends]),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=2), checkpoint=None),
        log_level='INFO',
        custom_hooks=[
            dict(type='bevfusion_plugin.TrainingMonitorHook'),
            dict(type='bevfusion_plugin.TrainingReportHook', **report),
            *hooks,
        ],
    )


def test_the_page_is_written_after_every_validation_and_at_the_end(tmp_path):
    watch = Watch(tmp_path / 'report.html')
    training(tmp_path, watch).train()
    scores = [seen['mAP, NDS and other scores']['mAP'] for seen in watch.seen]
    assert scores == [[[1], [0.25]], [[1, 2], [0.25, 0.5]]]
    assert [seen['Loss terms']['loss'][0][-1] for seen in watch.seen] == [8, 16]
    assert figures(tmp_path / 'report.html')['Loss terms']['loss'][0] == [2, 4, 6, 8, 10, 12, 14, 16]


def test_the_page_holds_the_numbers_of_the_log_and_the_plan_of_the_run(tmp_path):
    runner = training(tmp_path)
    runner.train()
    lines = [json.loads(line) for path in tmp_path.glob('*/vis_data/scalars.json') for line in path.read_text().splitlines()]
    shown = figures(tmp_path / 'report.html')
    for title, name in (
        ('Loss terms', 'loss_fit'),
        ('Learning rate', 'lr'),
        ('beta1 / momentum', 'momentum'),
        ('Loss scale and skipped updates', 'skipped_updates'),
    ):
        assert shown[title][name][1] == [six_digits(line[name]) for line in lines if 'iter' in line], name
    page = (tmp_path / 'report.html').read_text()
    assert '>1 x 2 x A1 = 2</td>' in page and 'as the run logged it' in page
    assert 'sys.platform' in page and 'diverged' not in page


def test_a_training_without_a_validation_gets_its_page_at_the_end(tmp_path):
    runner = training(tmp_path, out='pages/mine.html')
    runner._val_loop = runner._val_dataloader = runner._val_evaluator = None
    runner.train()
    assert 'Loss terms' in figures(tmp_path / 'pages' / 'mine.html') and not (tmp_path / 'report.html').exists()


def test_the_page_shows_at_once_what_the_divergence_sentinel_saw(tmp_path):
    class Sentinel(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 3:
                (tmp_path / 'divergence.json').write_text(json.dumps(dict(update=4, reasons=['loss rose'])))
                runner.call_hook('after_divergence')
                raise RuntimeError('diverged')

    with pytest.raises(RuntimeError, match='diverged'):
        training(tmp_path, Sentinel()).train()
    page = (tmp_path / 'report.html').read_text()
    assert 'diverged at update 4' in page and 'loss rose' in page


def test_the_doctor_is_asked_once_a_training(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(training_report_hook, 'diagnose', lambda record: asked.append(record) or Diagnosis(problem='asked'))
    training(tmp_path).train()
    assert len(asked) == 1 and 'asked' in (tmp_path / 'report.html').read_text()


def test_a_page_that_cannot_be_written_is_a_warning_and_no_end_of_the_training(tmp_path):
    runner = training(tmp_path, backends=())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always', UserWarning)
        runner.train()
    told = [str(each.message) for each in caught if 'training report' in str(each.message)]
    assert len(told) == 3 and all('was not written: FileNotFoundError: there is no training log' in each for each in told)
    assert runner.iter == 16


def test_a_page_that_cannot_be_written_fails_a_test(tmp_path):
    with pytest.raises(UserWarning, match='the training report was not written'):
        training(tmp_path, backends=()).train()


def test_a_validation_alone_writes_no_page(tmp_path):
    training(tmp_path).val()
    assert not (tmp_path / 'report.html').exists()


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(training_report_hook, 'is_main_process', lambda: False)
    training(tmp_path).train()
    assert not (tmp_path / 'report.html').exists()


def test_the_hooks_are_found_where_plotly_and_mmdet3d_are_absent():
    code = (
        "import sys; sys.modules.update(plotly=None, mmcv=None, mmdet=None, mmdet3d=None);"
        "from mmengine.registry import HOOKS;"
        "print(HOOKS.build(dict(type='bevfusion_plugin.DetectionPictureHook')).priority,"
        "HOOKS.build(dict(type='bevfusion_plugin.TrainingReportHook')).priority)"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == 'NORMAL LOWEST', done.stderr
