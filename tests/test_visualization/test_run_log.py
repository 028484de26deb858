import pytest
from written_runs import ENVIRONMENT, EPOCHS, PLAN, step, validation, write_run

from bevfusion_plugin.visualization.run_log import read_run_log, read_text_log, run_folders

NAME = '20250101_000000'


def test_training_and_validation_lines_are_told_apart_and_lose_their_prefixes(tmp_path):
    log = read_run_log(
        write_run(
            tmp_path,
            NAME,
            [
                step(10, loss=2.0),
                {'train/loss': 1.0, 'train/time': 1.0, 'iter': 20, 'step': 20},
                validation(1, mAP=0.25),
                {'val/mAP': 0.5, 'val/time': 1.0, 'step': 2},
                {'test/mAP': 0.9, 'time': 1.0},
            ],
        )
    )
    assert [(number, values['loss']) for number, values in log.training] == [(10, 2.0), (20, 1.0)]
    assert [(each.step, each.iteration, each.values['mAP']) for each in log.evaluations] == [(1, 20, 0.25), (2, 20, 0.5)]


def test_text_and_flags_are_no_series(tmp_path):
    log = read_run_log(write_run(tmp_path, NAME, [step(1, loss=1.0, note='text', flag=True)]))
    assert log.training == ((1, dict(loss=1.0, time=1.0, epoch=1, iter=1)),)


@pytest.mark.parametrize('name', [f'vis_data/{NAME}.json', 'vis_data/other.json', f'{NAME}.json'])
def test_the_log_is_found_beside_scalars_json_too(tmp_path, name):
    assert read_run_log(write_run(tmp_path, NAME, [step(1, loss=1.0)], name=name)).training


def test_a_run_that_only_tested_has_no_log(tmp_path):
    assert read_run_log(write_run(tmp_path, NAME, [dict(mAP=0.5, time=0.1)], name=f'{NAME}.json')) is None


def test_only_the_last_line_may_be_damaged(tmp_path):
    assert len(read_run_log(write_run(tmp_path, NAME, [step(1, loss=1.0), '{"loss": 1.'])).training) == 1
    with pytest.raises(ValueError, match=r'line 1 of .*scalars.json is damaged: .*remove it'):
        read_run_log(write_run(tmp_path, NAME, ['{"loss": 1.', step(2, loss=1.0)]))


def test_only_folders_named_after_a_time_are_runs(tmp_path):
    for name in ('20250102_000000', NAME, 'pictures', '20250101'):
        (tmp_path / name).mkdir()
    (tmp_path / '20250103_000000').write_text('')
    assert [run.name for run in run_folders(tmp_path)] == [NAME, '20250102_000000']


def test_the_text_log_tells_ranks_plan_environment_and_length_of_an_epoch(tmp_path):
    text = ENVIRONMENT.format(ranks=4) + PLAN + EPOCHS.format(length=7724)
    found = read_text_log(write_run(tmp_path, NAME, [], text=text))
    assert found.world_size == 4 and found.batches_per_epoch == 7724
    assert found.plan_rows == (('ranks', '4'), ('samples a rank a micro-batch', '2'), ('total batch', '4 x 2 x A4 = 32'))
    assert found.environment.startswith('System environment:\n    sys.platform: linux')
    assert found.environment.endswith('GPU number: 4')


def test_a_text_log_without_any_of_it_tells_nothing(tmp_path):
    found = read_text_log(write_run(tmp_path, NAME, [], text='hello\n'))
    assert (found.environment, found.plan_rows, found.world_size, found.batches_per_epoch) == ('', (), None, None)
    assert read_text_log(tmp_path / 'nowhere') == found
