import pytest

from bevfusion_plugin.visualization.test_scores import read_test_scores, write_test_scores


def test_the_newest_test_of_each_condition_is_kept(tmp_path):
    folder = tmp_path / 'work'
    assert read_test_scores(folder) == {}
    write_test_scores(folder, 'all sensors', 'epoch_1.pth', dict(mAP=0.1, car=float('nan'), name='x'))
    write_test_scores(folder, 'without lidar', 'epoch_2.pth', dict(mAP=0.2))
    write_test_scores(folder, 'all sensors', 'epoch_2.pth', dict(mAP=0.3))
    assert read_test_scores(folder) == {
        'all sensors': dict(checkpoint='epoch_2.pth', metrics=dict(mAP=0.3)),
        'without lidar': dict(checkpoint='epoch_2.pth', metrics=dict(mAP=0.2)),
    }


@pytest.mark.parametrize('text', ['{', '[1]', '{"all sensors": 3}', '{"all sensors": {"metrics": {}}}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / 'test_scores.json').write_text(text)
    with pytest.raises(ValueError, match='test_scores.json is damaged .*; remove it'):
        read_test_scores(tmp_path)
