"""Wrong inputs to all tools: no traceback, status 2, and a message of a few lines that names the input."""

import os

import named_toys  # noqa: F401  the toys of TOY, by their names
import pytest
import torch
from tool_loading import load_tool

TOY = """
model = dict(type='NamedToy')
train_dataloader = dict(batch_size=4, num_workers=2, sampler=dict(type='DefaultSampler'), dataset=dict(type='NamedToyData'))
test_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler'), dataset=dict(type='NamedToyData'))
test_cfg = dict()
test_evaluator = dict(type='DumpResults', out_file_path='out.pkl')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=4, T_max=4)]
train_cfg = dict(by_epoch=True, max_epochs=4)
auto_scale_lr = dict(enable=False, base_batch_size=4)
"""


FILES = {
    'syntax.py': b'model = dict(\n',
    'bad.yaml': b'a: [1\n b: }',
    'text.md': b'# hello\n',
    'plain.txt': b'model = 1',
    'gone.py': b'raise OSError(1)',
    'base.py': b"_base_ = './nothing.py'\n",
    'list.json': b'[1, 2]',
    'bad.json': b'{"a":',
    'list.yaml': b'- 1\n- 2\n',
    'scalar.yml': b'5\n',
    'bytes.py': b'\x00\xff\x80',
    'leaves.py': b'import sys; sys.exit(3)\n',
    'divides.py': b'x = 1 / 0\n',
    'imports.py': b'import nothing_there\n',
    'junk.pth': b'junk',
    'empty.pth': b'',
    'text.pth': b'hello',
    'afile': b'x',
    'toy.py': TOY.encode(),
}
BAD_CONFIGS = [name for name in FILES if not name.endswith('.pth') and name not in ('afile', 'toy.py')] + ['nowhere.py', 'folder.py']
READERS = {'doctor': (), 'plan': (), 'train': (), 'test': ('weights.pth',), 'plot_schedule': ()}
BAD_OPTIONS = ['word', '=3', 'a.b.c', 'trian_cfg.max_epochs=1', 'param_scheduler.9.x=1']
BAD_VALUES = [
    'train_cfg.max_epochs=0',
    'train_cfg.max_epochs=x',
    'train_cfg=None',
    'model=None',
    'model=3',
    'model.type=Nope',
    'model.layers=3',
    'train_dataloader=None',
    'train_dataloader.batch_size=x',
    'train_dataloader.batchsize=3',
    'optim_wrapper.zzz=1',
    'optim_wrapper.type=Nope',
    'optim_wrapper=None',
    'optim_wrapper.optimizer.lr=high',
    'optim_wrapper.optimizer.type=Nope',
    'param_scheduler.0.type=Nope',
    'param_scheduler.0.zzz=1',
    'train_dataloader.dataset.type=Nope',
    'train_dataloader.sampler.type=Nope',
    'auto_scale_lr.base_batch_size=0',
]

INPUTS = [(tool, (name, *rest), name) for tool, rest in READERS.items() for name in BAD_CONFIGS]
INPUTS += [
    (tool, ('toy.py', *rest, '--cfg-options', option), option.partition('.')[0]) for tool, rest in READERS.items() for option in BAD_OPTIONS
]
INPUTS += [
    (
        'train',
        ('toy.py', '--cfg-options', option),
        option.rpartition('=')[2] if option.endswith(('=x', '=Nope', '=high')) else option.partition('=')[0].rpartition('.')[2],
    )
    for option in BAD_VALUES
]
INPUTS += [
    ('test', ('toy.py', 'weights.pth', '--cfg-options', option), option.partition('.')[0].partition('=')[0])
    for option in ('test_dataloader=None', 'test_evaluator=None', 'test_cfg=None', 'model=None', 'test_dataloader.dataset.type=Nope')
]
INPUTS += [('convert_checkpoint', ('weights.pth', 'out.pth', '--from', 'mit', '--config', name), name) for name in BAD_CONFIGS]
INPUTS += [
    ('convert_checkpoint', (name, 'out.pth', '--from', 'mit'), name)
    for name in ('junk.pth', 'empty.pth', 'text.pth', 'list.pth', 'nowhere.pth', 'folder.py')
]
INPUTS += [('test', ('toy.py', name), name) for name in ('junk.pth', 'empty.pth', 'text.pth', 'list.pth', 'nowhere.pth', 'folder.py')]
INPUTS += [('train', ('toy.py', '--resume', name), name) for name in ('junk.pth', 'list.pth', 'weights.pth', 'nowhere.pth', 'folder.py')]
INPUTS += [('doctor', ('toy.py', '--resume-from', name), name) for name in ('junk.pth', 'list.pth', 'weights.pth', 'nowhere.pth', 'toy.py')]
INPUTS += [('doctor', ('toy.py', '--fix', out), out) for out in ('out.txt', 'afile/x.py', 'folder.py', 'toy.py', '/proc/nothing/x.py')]
INPUTS += [
    (tool, ('toy.py', *rest, '--work-dir', folder), folder)
    for tool, rest in (('train', ()), ('test', ('weights.pth',)))
    for folder in ('afile', 'afile/below')
]
INPUTS += [
    ('test', ('toy.py', 'weights.pth', '--show-dir', 'afile'), 'afile'),
    ('doctor', ('toy.py', '--gpus', '0'), '--gpus'),
    ('plan', ('--gpus', '0'), '--gpus'),
    ('plan', ('toy.py', '--gpus', 'x'), 'x'),
    ('train', ('toy.py', '--save-every', '-1'), '-1'),
    ('train', ('toy.py', '--amp', 'int8'), 'int8'),
    ('train', (), 'config'),
    ('report', ('nowhere',), 'nowhere'),
    ('plot_schedule', ('toy.py', '--gpus', '0'), '--gpus'),
]


@pytest.fixture(scope='module')
def tools():
    found = {name: load_tool(name) for name in {tool for tool, _, _ in INPUTS}}
    found['train'].run = lambda cfg: 77  # where the input is not refused
    return found


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Every file that the inputs name, in the working directory."""
    place = tmp_path_factory.mktemp('inputs')
    for name, content in FILES.items():
        (place / name).write_bytes(content)
    (place / 'folder.py').mkdir()
    torch.save([1, 2], place / 'list.pth')
    torch.save(dict(state_dict={'layer.weight': torch.zeros(1, 1)}), place / 'weights.pth')
    before = os.getcwd()
    os.chdir(place)
    yield place
    os.chdir(before)


def test_they_are_many():
    assert len(INPUTS) >= 100


@pytest.mark.parametrize('tool, arguments, named', INPUTS, ids=lambda value: ' '.join(value) if isinstance(value, tuple) else value)
def test_a_wrong_input_is_named_with_status_2(tool, arguments, named, tools, folder, capsys):
    try:
        status = tools[tool].main(list(arguments))
    except SystemExit as leaving:  # argparse's way
        status = leaving.code
    text = capsys.readouterr().err
    assert status == 2, text
    assert named in text and 'Traceback' not in text
    assert set(os.listdir(folder)) <= {*FILES, 'folder.py', 'list.pth', 'weights.pth'}, 'nothing is written'
