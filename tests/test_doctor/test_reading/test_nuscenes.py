import pytest
from mmengine.config import Config

from bevfusion_plugin.doctor.reading.nuscenes import balanced_length, known_samples

NUSCENES = dict(type='NuScenesDataset', ann_file='nuscenes_infos_train.pkl')


def info(*labels, points=5, valid=True):
    return dict(instances=[dict(bbox_label_3d=label, num_lidar_pts=points, bbox_3d_isvalid=valid) for label in labels])


def infos(*frames):
    return dict(metainfo=dict(categories=dict(car=0, bus=1)), data_list=list(frames))


@pytest.mark.parametrize(
    'dataset, expected',
    [
        (dict(type='bevfusion_plugin.CBGSDataset', dataset=NUSCENES), 123_580),
        (NUSCENES, 28_130),
        (dict(type='RepeatDataset', times=2, dataset=NUSCENES), 56_260),
        (dict(NUSCENES, ann_file='my_subset.pkl'), None),
        (dict(NUSCENES, load_type='mv_image_based'), None),
        (dict(type='CBGSDataset', dataset=dict(NUSCENES, metainfo=dict(version='v1.0-mini'))), None),
        (dict(type='ConcatDataset', datasets=[NUSCENES, NUSCENES]), None),
        (dict(type='KittiDataset'), None),
        (dict(), None),
    ],
)
def test_samples_are_known_for_the_full_nuscenes_alone(dataset, expected):
    assert known_samples(Config(dict(train_dataloader=dict(dataset=dataset)))) == expected


def test_only_valid_boxes_of_trained_classes_count():
    frames = infos(info(0), info(0, points=0), info(1, valid=False), info(7))
    assert balanced_length(frames, dict(metainfo=dict(classes=['car', 'bus']))) == 2  # one frame each
    assert balanced_length(frames, dict(metainfo=dict(classes=['car', 'bus']), use_valid_flag=True)) == 1  # car alone: int(2 / 2)
    assert balanced_length(frames, dict(metainfo=dict(classes=['bus']))) == 1
