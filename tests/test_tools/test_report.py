"""tools/report.py from the outside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.evaluator import BaseMetric, Evaluator
from tool_loading import load_tool
from toy_training import toy_runner, validation_loader
from written_runs import CONFIG, step, validation, write_run

from bevfusion_plugin.doctor.finding import Finding
from bevfusion_plugin.visualization.report.run_record import Diagnosis

ROOT = Path(__file__).parents[2]
FIRST = '20250101_000000'
FITTING = CONFIG.replace('batch_size=3', 'batch_size=4')  # 4 x 4 x A2 = 32, what the LR was tuned for


@pytest.fixture(scope='module')
def report():
    return load_tool('report')


def write_training(work_dir, loss=1.5, config=FITTING):
    write_run(work_dir, FIRST, [step(50, loss=loss), validation(1, mAP=0.5, NDS=0.6)], config=config)
    return str(work_dir)


def test_the_page_goes_into_the_work_dir_and_its_path_is_printed(report, tmp_path, capsys):
    assert report.main([write_training(tmp_path / 'x')]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / 'x' / 'report.html')
    assert (tmp_path / 'x' / 'report.html').read_text().startswith('<!DOCTYPE html>')


def test_the_page_of_several_goes_into_the_folder_they_share(report, tmp_path, capsys):
    report.main([write_training(tmp_path / 'x'), write_training(tmp_path / 'y')])
    assert capsys.readouterr().out.strip() == str(tmp_path / 'report.html')
    assert '<h1>x, y</h1>' in (tmp_path / 'report.html').read_text()


def test_the_page_goes_where_it_is_told_to(report, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report.main([write_training(tmp_path / 'x'), '--out', 'pages/mine.html'])
    assert (tmp_path / 'pages' / 'mine.html').is_file() and not (tmp_path / 'x' / 'report.html').exists()


def test_machines_get_the_summary_and_the_findings_as_json(report, tmp_path, capsys):
    status = report.main([write_training(tmp_path / 'x', float('nan')), write_training(tmp_path / 'y', config=CONFIG), '--json'])
    told = json.loads(capsys.readouterr().out)
    assert told['report'] == str(tmp_path / 'report.html')
    first, second = told['runs']
    wanted = dict(name='x', iterations=50, updates=25, total_batch='4 x 4 x A2 = 32', final_loss=None, mAP=0.5, NDS=0.6, diverged=False)
    assert {key: first[key] for key in wanted} == wanted
    assert second['final_loss'] == 1.5 and second['total_batch'] == '4 x 3 x A2 = 24'
    assert {'rule', 'severity', 'message', 'mend'} == set(second['findings'][0])
    assert status == any(finding['severity'] == 'error' for run in told['runs'] for finding in run['findings'])


def test_a_finding_at_error_level_and_a_divergence_give_status_1(report, tmp_path, monkeypatch):
    work_dir = write_training(tmp_path)
    findings = [Finding('some-rule', 'warning', 'what', 'mend', 'seen')]
    monkeypatch.setattr(report, 'diagnose', lambda record: Diagnosis(tuple(findings)))
    assert report.main([work_dir]) == 0
    findings.append(Finding('some-rule', 'error', 'what', 'mend', 'seen'))
    assert report.main([work_dir]) == 1
    findings.clear()
    (tmp_path / 'divergence.json').write_text('{"update": 7}')
    assert report.main([work_dir]) == 1
    (tmp_path / 'divergence.json').write_text('{"update": 7, "over": 9}')
    assert report.main([work_dir]) == 0


def test_a_folder_without_a_log_gives_status_2_and_no_page(report, tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert 'there is no training log in' in told.err and told.out == '' and not list(tmp_path.iterdir())
    assert report.main([str(tmp_path / 'nowhere')]) == 2 and 'there is no folder' in capsys.readouterr().err


def test_a_page_that_cannot_be_written_gives_status_2(report, tmp_path, capsys):
    work_dir = write_training(tmp_path / 'x')
    (tmp_path / 'file').write_text('')
    assert report.main([work_dir, '--out', str(tmp_path / 'file' / 'page.html')]) == 2
    assert 'file' in capsys.readouterr().err


class Score(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return {'pred_instances_3d_NuScenes/mAP': 0.25}


def test_a_training_by_mmengine_alone_has_a_page(report, tmp_path, capsys):
    loader = validation_loader()
    toy_runner(
        tmp_path,
        log_level='INFO',
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01), accumulative_counts=2, clip_grad=dict(max_norm=10)),
        val_dataloader=loader,
        val_cfg=dict(),
        val_evaluator=Evaluator(Score()),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=2), checkpoint=None),
    ).train()
    capsys.readouterr()  # MMEngine's own log
    report.main([str(tmp_path), '--json'])
    run = json.loads(capsys.readouterr().out)['runs'][0]
    assert (run['iterations'], run['mAP'], run['doctor_problem']) == (16, 0.25, '')
    page = (tmp_path / 'report.html').read_text()
    assert 'clipped to 10' in page and 'System environment' in page


def test_it_runs_from_any_directory_and_its_help_shows_an_example(tmp_path):
    env = {**os.environ, 'PYTHONPATH': ''}
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'report.py'), '--help'], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert done.returncode == 0 and 'python tools/report.py work_dirs/' in done.stdout, done.stderr
