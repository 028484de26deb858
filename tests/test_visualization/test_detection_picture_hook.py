import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from PIL import Image
from torch.utils.data import Dataset

from bevfusion_plugin.registry import HOOKS
from bevfusion_plugin.visualization import detection_picture_hook
from bevfusion_plugin.visualization.detection_picture_hook import (
    DetectionPictureHook,
    annotated_boxes,
    predicted_boxes,
    sample_figure,
    sample_token,
)

structures = pytest.importorskip('mmdet3d.structures', reason='the samples are mmdet3d objects')

# Looks along +x of the lidar frame, focal length 100, middle at (50, 40).
FORWARD = np.array([[50.0, -100, 0, 0], [40, 0, -100, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
IMAGES = torch.full((2, 3, 80, 100), 30.0)
POINTS = torch.tensor([[5.0, 5, 0, 0, 0]])


def lidar_boxes(*rows):
    return structures.LiDARInstance3DBoxes(torch.tensor(rows, dtype=torch.float32).reshape(-1, 9), box_dim=9)


def sample(name=0, scores=(0.9, 0.1), cameras=True, **meta):
    """One car at (12, 0), found twice."""
    car = (12.0, 0, 0, 4, 2, 1.5, 0, 0, 0)
    if cameras:
        meta = dict(lidar2img=[FORWARD] * 2, img_aug_matrix=[np.eye(4)] * 2, img_path=['s/CAM_FRONT/a.jpg', 's/CAM_BACK/b.jpg'], **meta)
    data_sample = structures.Det3DDataSample(metainfo=dict(sample_idx=name, **meta))
    data_sample.pred_instances_3d = InstanceData(
        bboxes_3d=lidar_boxes(*[car] * len(scores)), scores_3d=torch.tensor(scores), labels_3d=torch.zeros(len(scores), dtype=torch.long)
    )
    data_sample.eval_ann_info = dict(gt_bboxes_3d=lidar_boxes(car, car), gt_labels_3d=np.array([0, -1]))
    return data_sample


class Samples(Dataset):
    METAINFO = dict(classes=('car', 'bus'))

    def __init__(self, samples):
        self.samples = samples
        self.metainfo = self.METAINFO

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        inputs = dict(points=POINTS + index)
        if 'lidar2img' in self.samples[index]:
            inputs['img'] = IMAGES + index
        return dict(inputs=inputs, data_samples=self.samples[index])


class ReturnsSamples(BaseModel):
    def forward(self, inputs, data_samples, mode):
        return data_samples


def evaluate(work_dir, samples, batch_size=2, loop='test', **hook):
    loader = dict(
        batch_size=batch_size,
        num_workers=0,
        dataset=Samples(samples),
        collate_fn=dict(type='pseudo_collate'),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    runner = Runner(
        ReturnsSamples(),
        str(work_dir),
        log_level='ERROR',
        experiment_name=work_dir.parent.name + work_dir.name,
        custom_hooks=[dict(type='bevfusion_plugin.DetectionPictureHook', **hook)],
        **{f'{loop}_dataloader': loader, f'{loop}_cfg': dict(), f'{loop}_evaluator': []},
    )
    getattr(runner, loop)()
    return runner


def names(folder):
    return sorted(path.name for path in folder.glob('*'))


@pytest.mark.parametrize('loop', ['val', 'test'])
def test_an_evaluation_writes_one_picture_a_sample_named_after_it(tmp_path, loop):
    evaluate(tmp_path, [sample(3), sample('a/b', cameras=False), sample(12, cameras=False)], batch_size=1, loop=loop)
    assert names(tmp_path / 'pictures') == ['12.png', '3.png', 'a_b.png']
    with Image.open(tmp_path / 'pictures' / '3.png') as picture:
        assert picture.width > 1000 and picture.height > 1000


@pytest.mark.parametrize('loop', ['val', 'test'])
def test_pictures_stop_at_max_samples_and_begin_anew_with_the_next_evaluation(tmp_path, loop):
    runner = evaluate(
        tmp_path / 'run', [sample(index, cameras=False) for index in range(4)], loop=loop, out_dir=str(tmp_path / 'out'), max_samples=2
    )
    assert names(tmp_path / 'out') == ['0.png', '1.png'] and not (tmp_path / 'run' / 'pictures').exists()
    (tmp_path / 'out' / '1.png').unlink()
    getattr(runner, loop)()
    assert names(tmp_path / 'out') == ['0.png', '1.png']


def test_each_sample_is_drawn_with_its_own_points_and_images_and_the_data_sets_classes(tmp_path, monkeypatch):
    calls = []

    def record(*args):
        calls.append(args)
        return Figure()

    monkeypatch.setattr(detection_picture_hook, 'sample_figure', record)
    evaluate(tmp_path, [sample(0), sample(1), sample(2, cameras=False)], score_thr=0.5)
    for index, (drawn, points, images, class_names, score_thr, token) in enumerate(calls):
        assert drawn.sample_idx == index and (points == POINTS + index).all()
        assert images is None if index == 2 else (images == IMAGES + index).all()
        assert class_names == ('car', 'bus') and score_thr == 0.5 and token == ''
    assert len(calls) == 3


class Listed(Samples):
    def get_data_info(self, index):
        return dict(sample_idx=index, token=f'token-{index}')


class Repeated(Listed):
    def get_data_info(self, index):
        return super().get_data_info(index // 2)


def test_a_picture_carries_the_samples_token_in_its_title_and_text(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(detection_picture_hook, 'scene_figure', lambda title, **scene: titles.append(title) or Figure())
    monkeypatch.setattr(sys.modules[__name__], 'Samples', Listed)
    evaluate(tmp_path, [sample(0, cameras=False)])
    assert titles[0].startswith('sample 0, token token-0: predictions')
    assert Image.open(tmp_path / 'pictures' / '0.png').text['token'] == 'token-0'


@pytest.mark.parametrize(
    'meta, dataset, token',
    [
        (dict(token='packed'), Listed([]), 'packed'),
        ({}, Listed([]), 'token-3'),
        ({}, Samples([]), ''),
        (dict(sample_idx='odd'), Listed([]), ''),
        ({}, Repeated([]), ''),
    ],
)
def test_the_token_is_the_packed_one_or_the_data_sets(meta, dataset, token):
    packed = structures.Det3DDataSample(metainfo={'sample_idx': 3, **meta})
    assert sample_token(dataset, packed) == token


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(detection_picture_hook, 'is_main_process', lambda: False)
    evaluate(tmp_path, [sample()])
    assert not (tmp_path / 'pictures').exists()


def test_a_sample_without_predictions_is_named(tmp_path):
    odd = sample(7, cameras=False)
    del odd.pred_instances_3d
    with pytest.raises(RuntimeError, match='cannot draw sample 7: ValueError: pred_instances_3d .* is missing'):
        evaluate(tmp_path, [sample(6, cameras=False), odd])


def test_a_sample_without_a_name_says_what_to_add(tmp_path):
    with pytest.raises(ValueError, match="no 'sample_idx' .* meta_keys"):
        evaluate(tmp_path, [structures.Det3DDataSample()])


@pytest.mark.parametrize(
    'odd, told', [(sample(cameras=False), "'lidar2img' .* meta_keys"), (structures.Det3DDataSample(), "no 'sample_idx' .* meta_keys")]
)
def test_a_validation_that_could_not_be_drawn_is_refused_before_the_training(odd, told, monkeypatch):
    packed = dict(inputs=dict(points=POINTS, img=IMAGES), data_samples=odd)
    hook = DetectionPictureHook()
    with pytest.raises(ValueError, match=told):
        hook.before_train(SimpleNamespace(val_loop='one', val_dataloader=SimpleNamespace(dataset=[packed])))
    hook.before_train(SimpleNamespace(val_loop='one', val_dataloader=SimpleNamespace(dataset=[dict(packed, data_samples=sample())])))
    hook.before_train(SimpleNamespace(val_loop=None))
    monkeypatch.setattr(detection_picture_hook, 'is_main_process', lambda: False)
    hook.before_train(SimpleNamespace(val_loop='one'))


def test_a_sample_with_broken_boxes_is_named(tmp_path):
    odd = sample(8, cameras=False)
    odd.eval_ann_info['gt_labels_3d'] = np.zeros(5, dtype=int)
    with pytest.raises(RuntimeError, match='cannot draw sample 8'):
        evaluate(tmp_path, [odd])


def test_lidar_only_samples_give_the_birds_eye_views_alone():
    figure = sample_figure(sample(cameras=False), POINTS, class_names=['car'])
    assert [axes.get_title(loc='left') for axes in figure.axes] == ['ground truth (1 boxes)', 'prediction (1 boxes)']


def test_a_sample_without_annotations_shows_predictions_only():
    plain = sample()
    plain.eval_ann_info = None
    figure = sample_figure(plain, POINTS, IMAGES)
    titles = [axes.texts[0].get_text() for axes in figure.axes[1:]]
    assert titles == ['CAM_FRONT, prediction', 'CAM_BACK, prediction']
    assert annotated_boxes(plain, np.eye(4)) is None


def test_images_without_projection_say_what_to_add():
    with pytest.raises(ValueError, match="'lidar2img' .* meta_keys"):
        sample_figure(sample(cameras=False), POINTS, IMAGES)


def test_predictions_below_the_threshold_and_ignored_classes_are_left_out():
    assert predicted_boxes(sample(scores=(0.9, 0.3, 0.29, float('nan'))), 0.3 - 1e-6).labels.tolist() == [0, 0]
    assert annotated_boxes(sample(), np.eye(4)).labels.tolist() == [0]


def test_half_precision_predictions_on_any_device_are_drawn():
    half = sample()
    half.pred_instances_3d.scores_3d = half.pred_instances_3d.scores_3d.bfloat16()
    half.pred_instances_3d.bboxes_3d.tensor = half.pred_instances_3d.bboxes_3d.tensor.half()
    assert predicted_boxes(half, 0.3).corners.dtype == np.float32


def wireframe(figure, title):
    axes = next(axes for axes in figure.axes if axes.texts and axes.texts[0].get_text() == title)
    return np.stack(axes.collections[0].get_segments())


def test_boxes_are_drawn_into_the_augmented_image():
    moved = np.eye(4)
    moved[:2, :2] *= 0.5
    moved[:2, 3] = 7, -3
    plain = wireframe(sample_figure(sample(), POINTS, IMAGES), 'CAM_FRONT, prediction')
    augmented = sample()
    augmented.set_metainfo(dict(img_aug_matrix=[moved] * 2))
    np.testing.assert_allclose(
        wireframe(sample_figure(augmented, POINTS, IMAGES), 'CAM_FRONT, prediction'), plain * 0.5 + (7, -3), rtol=1e-6
    )


def test_annotations_and_cameras_follow_a_lidar_augmentation():
    angle = 0.4
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = 1, 2, 0.5
    plain, turned = sample(), sample(lidar_aug_matrix=turn)
    car = turned.pred_instances_3d.bboxes_3d
    car.rotate(angle)
    car.translate([1, 2, 0.5])
    np.testing.assert_allclose(annotated_boxes(turned, turn).corners[0], predicted_boxes(turned, 0.3).corners[0], atol=1e-5)
    before, after = sample_figure(plain, POINTS, IMAGES), sample_figure(turned, POINTS, IMAGES)
    for side in ('ground truth', 'prediction'):
        np.testing.assert_allclose(wireframe(after, f'CAM_FRONT, {side}'), wireframe(before, f'CAM_FRONT, {side}'), atol=1e-3)


def test_the_tick_points_along_the_yaw_of_mmdet3ds_boxes():
    ahead = sample(cameras=False)
    ahead.pred_instances_3d.bboxes_3d = lidar_boxes(*[(3.0, 4, 0, 4, 2, 1.5, np.pi / 2, 0, 0)] * 2)
    start, end = sample_figure(ahead, POINTS).axes[1].collections[1].get_segments()[0]
    np.testing.assert_allclose(end - start, [0, 2.8], atol=1e-5)  # 1.4 x half the length, towards +y


@pytest.mark.parametrize(
    'setting, message',
    [(dict(score_thr=1.5), 'score_thr must be in .* got 1.5'), (dict(max_samples=0), 'max_samples must be an int >= 1, got 0')],
)
def test_wrong_settings_are_refused_at_construction(setting, message):
    with pytest.raises(ValueError, match=message):
        HOOKS.build(dict(type='bevfusion_plugin.DetectionPictureHook', **setting))


def test_the_hook_is_found_where_openmmlab_packages_but_mmengine_are_absent():
    code = (
        "import sys; sys.modules.update(mmcv=None, mmdet=None, mmdet3d=None);"
        "from mmengine.registry import HOOKS; hook = HOOKS.build(dict(type='bevfusion_plugin.DetectionPictureHook'));"
        "assert 'matplotlib.pyplot' not in sys.modules; print(type(hook).__name__)"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == DetectionPictureHook.__name__, done.stderr
