import pytest
from launched_tools import TOY, Launched

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


@pytest.fixture
def launch():
    """Starts commands; what still runs at the end is killed."""
    started = []

    def start(command, **environment):
        started.append(Launched(command, **environment))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def config(tmp_path):
    """Writes a toy config, more settings behind it."""

    def write(more=''):
        path = tmp_path / 'toy.py'
        path.write_text(TOY + more)
        return path

    return write
