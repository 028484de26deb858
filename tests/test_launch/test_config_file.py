import pytest

from bevfusion_plugin.launch.command_line import UsageError
from bevfusion_plugin.launch.config_file import find_config, load_config, move_root


def test_data_root_option_moves_every_path_below_it(config_file):
    cfg = load_config(config_file, dict(data_root='/elsewhere/'))
    assert cfg.train_dataloader.dataset.data_root == '/elsewhere'
    assert cfg.val_evaluator.ann_file == '/elsewhere/val.pkl'
    assert cfg.val_evaluator.note == 'data/nuscenes_other', 'a folder with a longer name is another folder'


def test_other_options_are_merged_as_usual(config_file):
    assert load_config(config_file, {'optim_wrapper.optimizer.lr': 0.5}).optim_wrapper.optimizer.lr == 0.5


def test_missing_config_is_named():
    with pytest.raises(UsageError, match='there is no config nowhere.py'):
        load_config('nowhere.py')


@pytest.mark.parametrize('name', ['recipe.py', 'configs/recipe.py'])
@pytest.mark.parametrize('installed', [True, False])
def test_a_packaged_config_is_found_by_its_name(tmp_path, monkeypatch, capsys, name, installed):
    package = tmp_path / 'site' / 'bevfusion_plugin'
    packaged = (package / '.mim' if installed else package.parent) / 'configs' / 'recipe.py'
    packaged.parent.mkdir(parents=True)
    packaged.touch()
    monkeypatch.chdir(tmp_path)
    assert find_config(name, package) == packaged
    assert f'config {name}: {packaged}' in capsys.readouterr().err, 'nothing is replaced silently'
    with pytest.raises(UsageError, match='there is no config mine/recipe.py; the packaged ones are recipe.py'):
        find_config('mine/recipe.py', package)  # a folder that is named is meant


def test_the_users_own_config_goes_before_a_packaged_one(tmp_path, monkeypatch, capsys):
    (tmp_path / 'bevfusion_4x4090.py').write_text('mine = 1')
    monkeypatch.chdir(tmp_path)
    assert load_config('bevfusion_4x4090.py').mine == 1 and not capsys.readouterr().err


@pytest.mark.parametrize(
    'text, problem', [('model = dict(', 'SyntaxError'), ('x = 1 / 0', 'ZeroDivisionError'), ("_base_ = './gone.py'", 'gone.py')]
)
def test_a_config_that_cannot_be_read_is_named_with_the_reason(tmp_path, text, problem):
    (tmp_path / 'broken.py').write_text(text)
    with pytest.raises(UsageError, match=f'broken.py cannot be read: .*{problem}'):
        load_config(tmp_path / 'broken.py')


@pytest.mark.parametrize(
    'key, problem', [('param_scheduler.7.end', 'KeyError.*exceeds the length'), ('optim_wrapper.optimizer.lr.x', 'TypeError.*lr')]
)
def test_an_option_that_fits_nothing_is_named(tmp_path, key, problem):
    (tmp_path / 'config.py').write_text('param_scheduler = [dict(type="LinearLR")]\noptim_wrapper = dict(optimizer=dict(lr=0.1))\n')
    with pytest.raises(UsageError, match=f'--cfg-options {key} do not fit .*: {problem}'):
        load_config(tmp_path / 'config.py', {key: 1})


def test_move_root_keeps_types_and_the_given_value():
    value = {'a': ('x/y', ['x', 'xy', 3])}
    assert move_root(value, 'x', 'z') == {'a': ('z/y', ['z', 'xy', 3])}
    assert value == {'a': ('x/y', ['x', 'xy', 3])}


def test_a_loader_without_workers_keeps_none_of_their_settings(tmp_path):
    (tmp_path / 'config.py').write_text(
        'train_dataloader = dict(num_workers=4, persistent_workers=True, prefetch_factor=2)\n'
        'val_dataloader = dict(num_workers=4, persistent_workers=True)\n'
    )
    cfg = load_config(tmp_path / 'config.py', {'train_dataloader.num_workers': 0})
    assert cfg.train_dataloader == dict(num_workers=0)
    assert cfg.val_dataloader == dict(num_workers=4, persistent_workers=True)


def test_a_path_below_home_is_found_wherever_it_stands(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'config.py').write_text(
        "load_from = '~/start.pth'\nwork_dir = '~/runs'\nnote = 'about ~/x'\nhooks = [dict(out_dir='~/pictures')]\n"
    )
    cfg = load_config(tmp_path / 'config.py', {'data_root': '~/data'})
    assert (cfg.load_from, cfg.work_dir, cfg.data_root) == tuple(f'{tmp_path}/{name}' for name in ('start.pth', 'runs', 'data'))
    assert cfg.hooks[0].out_dir == f'{tmp_path}/pictures' and cfg.note == 'about ~/x'
