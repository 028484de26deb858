import pickle
import threading
from collections import OrderedDict
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from bevfusion_plugin.engine.checkpoints.checked_loading import BrokenCheckpoint, load_checked, tensors_in, weights_fault


def test_weights_alone_load_and_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save(OrderedDict(w=torch.ones(2)), tmp_path / 'weights.pth')
    assert CheckpointLoader.load_checkpoint('~/weights.pth')['w'].tolist() == [1, 1]
    with pytest.raises(FileNotFoundError, match='the checkpoint ~/gone.pth can not be found'):
        CheckpointLoader.load_checkpoint('~/gone.pth')


@pytest.mark.parametrize(
    'content, fault',
    [
        ([1], 'holds a list and no weights by name'),
        (dict(w=torch.tensor([1.0, torch.inf])), None),
        (dict(w=torch.tensor([1])), None),
        (dict(a=[dict(b=torch.tensor(torch.nan))]), 'a.0.b'),
    ],
)
def test_what_weights_may_be(content, fault):
    found = weights_fault(content)
    assert found is None if fault is None else fault in found


def test_tensors_are_named_by_the_keys_that_lead_to_them():
    one = torch.ones(1)
    assert dict(tensors_in(dict(a=one, b=[dict(c=one), 3], d='x'))) == {'a': one, 'b.0.c': one}


def test_a_backbones_broken_weights_are_named(tmp_path):
    class Backbone(BaseModule):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.layer = nn.Linear(1, 1)

    path = tmp_path / 'backbone.pth'
    torch.save(dict(state_dict=Backbone().state_dict()), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BrokenCheckpoint, match='backbone.pth is truncated or damaged'):
        Backbone(init_cfg=dict(type='Pretrained', checkpoint=str(path))).init_weights()


def test_a_device_without_room_is_no_fault_of_the_file(tmp_path, monkeypatch):
    torch.save({}, tmp_path / 'x.pth')

    def full(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(torch, 'load', full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        load_checked(tmp_path / 'x.pth')


class Quiet(SimpleHTTPRequestHandler):
    """A server that writes no log."""

    def log_message(self, *args):
        pass


def test_what_comes_from_the_web_runs_no_code_either(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    (tmp_path / 'www').mkdir()
    torch.save(dict(w=torch.ones(2)), tmp_path / 'www' / 'good.pth')
    torch.save(dict(w=Fraction(1, 2)), tmp_path / 'www' / 'bad.pth')
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(tmp_path / 'www'))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}'
        assert CheckpointLoader.load_checkpoint(f'{address}/good.pth')['w'].tolist() == [1, 1]
        with pytest.raises(pickle.UnpicklingError, match='fractions.Fraction'):
            CheckpointLoader.load_checkpoint(f'{address}/bad.pth')
        server.shutdown()
