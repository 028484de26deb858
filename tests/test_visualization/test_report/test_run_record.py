import json
import math

import pytest
from written_runs import CONFIG, ENVIRONMENT, EPOCHS, PLAN, step, validation, write_picture, write_run

from bevfusion_plugin.visualization.report.run_record import diagnose, read_run, read_runs

FIRST, SECOND = '20250101_000000', '20250102_000000'


def losses(record):
    return record.training['loss']


def test_a_resumed_training_is_joined_where_the_later_start_begins(tmp_path):
    write_run(
        tmp_path,
        FIRST,
        [
            step(50, loss=5.0, old=1.0),
            validation(1, mAP=0.1),
            step(100, loss=4.0),
            validation(2, mAP=0.2),
            step(150, loss=3.0, late=1.0),
            validation(3, mAP=0.9),
        ],
    )
    write_run(tmp_path, SECOND, [step(150, loss=3.5), validation(3, mAP=0.3), step(200, loss=2.5)])
    record = read_run(tmp_path)
    assert losses(record) == [(50, 5.0), (100, 4.0), (150, 3.5), (200, 2.5)]
    assert [(each.step, each.values['mAP']) for each in record.evaluations] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert record.starts == (FIRST, SECOND) and record.last_iteration == 200
    assert record.training['old'] == [(50, 1.0)] and 'late' not in record.training, 'nothing of what was given up may stay'


def test_what_was_given_up_stays_out_although_the_later_start_is_not_as_far(tmp_path):
    write_run(tmp_path, FIRST, [step(number, loss=number) for number in (50, 100, 150, 200)] + [validation(1, mAP=0.9)])
    write_run(tmp_path, SECOND, [step(100, loss=1.0)])
    assert losses(read_run(tmp_path)) == [(50, 50), (100, 1.0)] and read_run(tmp_path).evaluations == ()


def test_starts_without_a_training_log_are_passed_over(tmp_path):
    write_run(tmp_path, FIRST, [step(50, loss=5.0)], text=ENVIRONMENT.format(ranks=2) + PLAN)
    write_run(tmp_path, SECOND, [dict(mAP=0.5, time=0.1)], name=f'{SECOND}.json', config='broken(')
    record = read_run(tmp_path)
    assert record.starts == (FIRST,) and record.config is not None and record.text.world_size == 2


def test_the_plan_is_the_table_that_was_logged(tmp_path):
    write_run(tmp_path, FIRST, [step(50, loss=5.0)], text=ENVIRONMENT.format(ranks=4) + PLAN)
    write_run(tmp_path, SECOND, [step(100, loss=4.0)])  # its log has no table
    assert dict(read_run(tmp_path).plan_rows)['total batch'] == '4 x 2 x A4 = 32'


def test_without_a_logged_table_the_config_gives_the_plan(tmp_path):
    write_run(tmp_path, FIRST, [step(50, loss=5.0)], text=ENVIRONMENT.format(ranks=4) + EPOCHS.format(length=10299))
    rows = dict(read_run(tmp_path).plan_rows)
    assert rows['total batch'] == '4 x 3 x A2 = 24' and rows['LR scaled to the batch'] == 'no' and rows['base batch'] == '32'
    assert rows['updates an epoch'] == '5150' and rows['updates in all'] == '30897'  # 6 x 10299 / 2: MMEngine's windows run on


def test_ranks_that_the_log_does_not_tell_are_marked_as_assumed(tmp_path):
    write_run(tmp_path, FIRST, [step(50, loss=5.0)], text='')
    assert dict(read_run(tmp_path).plan_rows)['ranks'] == '1 (assumed, the log does not say)'


def test_the_summary_names_what_a_comparison_needs(tmp_path):
    write_run(tmp_path / 'x', FIRST, [step(50, loss=5.0), step(101, loss=4.0), validation(1, mAP=0.5, NDS=0.6)])
    assert read_run(tmp_path / 'x').summary() == dict(
        name='x', iterations=101, updates=50, total_batch='4 x 3 x A2 = 24', final_loss=4.0, mAP=0.5, NDS=0.6
    )
    write_run(tmp_path / 'y', FIRST, [step(50, loss=5.0, update=7)], config=None)
    assert read_run(tmp_path / 'y').summary() == dict(
        name='y', iterations=50, updates=7, total_batch=None, final_loss=5.0, mAP=None, NDS=None
    )


def test_numbers_that_are_not_finite_are_kept(tmp_path):
    write_run(tmp_path, FIRST, [step(50, loss=math.nan), step(100, loss=math.inf)])
    assert math.isnan(losses(read_run(tmp_path))[0][1]) and losses(read_run(tmp_path))[1][1] == math.inf


@pytest.mark.parametrize(
    'config, problem',
    [
        (None, 'stored no config'),
        ('broken(', 'cannot be read: SyntaxError'),
        ('raise RuntimeError("odd")', 'cannot be read: RuntimeError: odd'),
    ],
)
def test_a_config_that_cannot_be_had_costs_the_plan_and_the_findings_only(tmp_path, config, problem):
    write_run(tmp_path, FIRST, [step(50, loss=5.0)], config=config)
    record = read_run(tmp_path)
    assert record.plan is None and record.plan_rows == () and record.clip_norm is None
    assert problem in diagnose(record).problem and diagnose(record).findings == ()


def test_a_senseless_batch_size_costs_the_plan_only(tmp_path):
    write_run(tmp_path, FIRST, [step(50, loss=5.0)], config=CONFIG.replace('accumulative_counts=2', 'accumulative_counts=0'))
    record = read_run(tmp_path)
    assert record.plan is None and record.updates is None and record.clip_norm == 35


def test_the_doctor_examines_the_config_with_the_ranks_that_trained(tmp_path):
    write_run(tmp_path, FIRST, [step(50, loss=5.0)])
    diagnosis = diagnose(read_run(tmp_path))
    assert diagnosis.problem == ''
    assert any('4 x 3 x A2 = 24' in finding.message for finding in diagnosis.findings), diagnosis.findings


def test_pictures_and_the_sentinels_report_are_taken_in(tmp_path):
    write_run(tmp_path, FIRST, [step(50, loss=5.0)])
    assert read_run(tmp_path).pictures == () and read_run(tmp_path).divergence is None
    write_picture(tmp_path / 'pictures' / 'b.png')
    write_picture(tmp_path / 'pictures' / 'a.png')
    (tmp_path / 'divergence.json').write_text(json.dumps(dict(update=7)))
    record = read_run(tmp_path)
    assert [path.name for path in record.pictures] == ['a.png', 'b.png'] and record.divergence == dict(update=7)


@pytest.mark.parametrize(
    'text, message', [('{"update": 7', 'divergence.json is damaged .*remove it'), ('[1]', 'must hold a JSON object, got list')]
)
def test_a_damaged_report_of_the_sentinel_is_named(tmp_path, text, message):
    write_run(tmp_path, FIRST, [step(50, loss=5.0)])
    (tmp_path / 'divergence.json').write_text(text)
    with pytest.raises(ValueError, match=message):
        read_run(tmp_path)


def test_a_folder_without_a_training_log_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no folder .*nowhere'):
        read_run(tmp_path / 'nowhere')
    write_run(tmp_path, FIRST, [dict(mAP=0.5, time=0.1)])
    with pytest.raises(FileNotFoundError, match=r'no training log in .*\(1 runs found\).*LocalVisBackend'):
        read_run(tmp_path)


def test_several_work_dirs_get_names_of_their_own(tmp_path):
    for name in ('a/demo', 'b/demo', 'b/other'):
        write_run(tmp_path / name, FIRST, [step(50, loss=5.0)])
    names = [record.name for record in read_runs([tmp_path / 'a/demo', tmp_path / 'b/demo', tmp_path / 'b/other'])]
    assert names == ['a/demo', 'b/demo', 'b/other']
    assert [record.name for record in read_runs([tmp_path / 'a/demo', tmp_path / 'b/other'])] == ['demo', 'other']
    with pytest.raises(ValueError, match='name the same folder: .*demo; give each work_dir once'):
        read_runs([tmp_path / 'a/demo', tmp_path / 'a/../a/demo'])


OURS = CONFIG.replace('AmpOptimWrapper', 'bevfusion_plugin.AccumulativeAmpOptimWrapper')


@pytest.mark.parametrize(
    'config, iteration, updates',
    [
        (CONFIG, 30, 8),
        (CONFIG, 29, 7),
        (CONFIG, 20, 5),  # MMEngine: windows of 4 over 3 epochs of 10, the last one short
        (OURS, 30, 9),
        (OURS, 29, 8),
        (OURS, 20, 6),
    ],
)  # ours: 3 windows an epoch
def test_updates_that_were_not_logged_are_the_windows_that_are_closed(config, iteration, updates, tmp_path):
    config = config.replace('accumulative_counts=2', 'accumulative_counts=4').replace('max_epochs=6', 'max_epochs=3')
    write_run(tmp_path, FIRST, [step(iteration, loss=1.0)], config, ENVIRONMENT.format(ranks=1) + EPOCHS.format(length=10))
    assert read_run(tmp_path).updates == updates
