import pytest

CONFIG = """
data_root = 'data/nuscenes'
train_dataloader = dict(dataset=dict(data_root=data_root, ann_file='train.pkl'))
val_evaluator = dict(ann_file=data_root + '/val.pkl', note='data/nuscenes_other')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / 'recipe.py'
    path.write_text(CONFIG)
    return path
