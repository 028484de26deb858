"""tools/test.py among several processes."""
import pytest
import torch
from mmengine.runner import Runner
from tool_loading import load_tool

TOY = """
default_scope = 'mmengine'
model = dict(type='toy_training.ToyModel')
test_dataloader = dict(batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
                       dataset=dict(type='toy_training.ToyData'), sampler=dict(type='DefaultSampler', shuffle=False))
test_cfg = dict()
test_evaluator = dict(type='DumpResults', out_file_path={folder!r} + '/results.pkl')
env_cfg = dict(dist_cfg=dict(backend='gloo', init_method='file://' + {folder!r} + '/store', rank=0, world_size=1))
"""


@pytest.fixture
def alone_in_a_group(tmp_path, monkeypatch):
    """A toy config and checkpoint for the only process of a group, with the environment that a launcher gives."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    for name, value in dict(LOCAL_RANK='0', OMP_NUM_THREADS='1', MKL_NUM_THREADS='1').items():
        monkeypatch.setenv(name, value)
    (tmp_path / 'toy.py').write_text(TOY.format(folder=str(tmp_path)))
    torch.save(dict(state_dict={}), tmp_path / 'toy.pth')
    return [str(tmp_path / 'toy.py'), str(tmp_path / 'toy.pth'), '--work-dir', str(tmp_path / 'work'), '--launcher', 'pytorch']


def test_a_process_that_has_tested_is_in_no_group_any_more(alone_in_a_group, tmp_path):
    assert load_tool('test').main(alone_in_a_group) == 0
    assert (tmp_path / 'results.pkl').is_file() and not torch.distributed.is_initialized()


def test_a_test_that_fails_is_in_no_group_any_more(alone_in_a_group, monkeypatch):
    def fail(runner):
        assert torch.distributed.is_initialized()
        raise RuntimeError('out of memory')

    monkeypatch.setattr(Runner, 'test', fail)
    with pytest.raises(RuntimeError, match='out of memory'):
        load_tool('test').main(alone_in_a_group)
    assert not torch.distributed.is_initialized()
