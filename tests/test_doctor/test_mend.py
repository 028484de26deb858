"""Mended configs, on chosen and on random ones."""

import copy
import random
from pathlib import Path

import pytest
from mmengine.config import Config
from reference_recipes import reference_fusion, reference_lidar

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.examination import examine
from bevfusion_plugin.doctor.finding import Finding
from bevfusion_plugin.doctor.mend import Unmendable, _literal, change_lines, changed, difference, mend_all, mended

CONFIGS = Path(__file__).parents[2] / 'configs'
PACKAGED = ('centerpoint/centerpoint_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py', 'second/second_hv_secfpn_8xb6-80e_kitti-3d-car.py')
OURS = ('bevfusion_4x4090.py', 'bevfusion_lidar_4x4090.py', 'bevfusion_pcdet_4x4090.py', 'bevfusion_demo.py')
VALUES = [
    None,
    0,
    -1,
    1,
    2,
    3.5,
    1e9,
    10**9,
    True,
    False,
    '',
    'abc',
    [],
    {},
    [1, 2],
    dict(type='X'),
    [dict(type='Y')],
    float('nan'),
    float('inf'),
    'auto',
    (1, 2, 3),
    0.999,
    [None],
]
PERTURBED = (
    'model',
    'train_dataloader',
    'val_dataloader',
    'optim_wrapper',
    'param_scheduler',
    'train_cfg',
    'auto_scale_lr',
    'custom_hooks',
    'default_hooks',
    'load_from',
    'randomness',
    'env_cfg',
    'val_evaluator',
    'num_gpus',
    'default_scope',
)


@pytest.fixture(autouse=True)
def short_traces(monkeypatch):
    """Forty micro-batches an epoch keep the shape of every schedule."""
    monkeypatch.setattr('bevfusion_plugin.doctor.case.QUICK_BATCHES', 40)


def packaged(name):
    mmdet3d = pytest.importorskip('mmdet3d')
    return Config.fromfile(Path(mmdet3d.__file__).parent / '.mim' / 'configs' / name)


def written(cfg, folder, name='base.py'):
    """``cfg`` as a config file."""
    (folder / name).write_text(''.join(f'{key} = {_literal(value)}\n' for key, value in cfg.to_dict().items()))
    return Config.fromfile(folder / name)


def fix(cfg, folder, gpus=None):
    """(what was mended, the config that --fix would have written)."""
    done = mend_all(Case(cfg, gpus, quick=True))
    (folder / 'out').mkdir(exist_ok=True)
    (folder / 'out' / 'mended.py').write_text(mended(cfg, done, folder / 'out'))
    return done, Config.fromfile(folder / 'out' / 'mended.py')


def errors(cfg, gpus=None):
    return [(finding.rule, finding.message) for finding in examine(Case(cfg, gpus, quick=True), 'error')]


# ---- the parts


def test_a_change_reaches_into_lists_and_makes_what_is_missing():
    cfg = Config(dict(param_scheduler=[dict(end=1), dict(end=2)], model=dict(a=1)))
    new = changed(cfg, {'param_scheduler.1.end': 6, 'model.b.c': [1], 'randomness.seed': 0})
    assert new.to_dict() == dict(param_scheduler=[dict(end=1), dict(end=6)], model=dict(a=1, b=dict(c=[1])), randomness=dict(seed=0))
    assert cfg.param_scheduler[1].end == 2, 'the config itself is left alone'


@pytest.mark.parametrize('empty', [[], None, {}, ''])
def test_a_change_fills_what_is_empty(empty):
    new = changed(Config(dict(default_hooks=empty)), {'default_hooks.timer.type': 'X'})
    assert new.default_hooks == dict(timer=dict(type='X'))


@pytest.mark.parametrize('in_the_way', [[1, 2], 'text', (3,), 7])
def test_a_change_does_not_delete_what_is_in_its_way(in_the_way):
    with pytest.raises(Unmendable):
        changed(Config(dict(default_hooks=in_the_way)), {'default_hooks.timer.type': 'X'})


def test_the_difference_merges_back_to_the_new_config(tmp_path):
    old = dict(a=dict(x=1, y=dict(z=2)), b=[1, dict(c=2)], c=3, d=dict(e=1), f=dict(g=1))
    new = dict(a=dict(x=1, y=dict(z=3)), b=[1, dict(c=9)], c=dict(k=1), d=None, f=dict(h=2), n=float('inf'))
    assert difference(old, new) == dict(
        a=dict(y=dict(z=3)), b=[1, dict(c=9)], c=dict(k=1, _delete_=True), d=None, f=dict(h=2, _delete_=True), n=float('inf')
    )
    base = written(Config(old), tmp_path)
    overlay = mended(base, [Finding('r', 'error', '', '', '', dict(new))], tmp_path)
    (tmp_path / 'new.py').write_text(overlay)
    assert Config.fromfile(tmp_path / 'new.py').to_dict() == new


def test_the_text_names_its_base_relative_to_where_it_is_written(tmp_path):
    base = written(Config(dict(a=1)), tmp_path)
    text = mended(base, [Finding('the-rule', 'error', '', '', '', dict(a=2))], tmp_path / 'deep' / 'er')
    assert text == '"""Mended by tools/doctor.py: the-rule."""\n_base_ = \'../../base.py\'\n\na = 2\n'


def test_a_config_without_findings_is_its_base_alone(tmp_path):
    assert mended(written(Config(dict(a=1)), tmp_path), [], tmp_path).endswith("_base_ = 'base.py'\n\n")


def test_options_that_the_file_does_not_have_are_written_too(tmp_path):
    cfg = written(Config(dict(a=1, b=dict(c=2))), tmp_path)
    cfg.merge_from_dict({'b.c': 5})
    assert 'b = {\'c\': 5}' in mended(cfg, [], tmp_path)


def test_a_new_style_config_is_written_whole(tmp_path):
    (tmp_path / 'lazy.py').write_text('from mmengine.optim import OptimWrapper\n\noptim_wrapper = dict(type=OptimWrapper, a=1)\n')
    cfg = Config.fromfile(tmp_path / 'lazy.py')
    cfg = Config(cfg.to_dict(), filename=cfg.filename)
    text = mended(cfg, [Finding('r', 'error', '', '', '', {'optim_wrapper.a': 2})], tmp_path)
    assert '_base_' not in text
    (tmp_path / 'out.py').write_text(text)
    assert Config.fromfile(tmp_path / 'out.py').optim_wrapper == dict(type='mmengine.optim.OptimWrapper', a=2)


def test_two_findings_about_one_pipeline_are_both_mended(tmp_path):
    cfg = reference_fusion()
    steps = cfg.train_dataloader.dataset.dataset.pipeline
    steps[5].type = 'GlobalRotScaleTrans'
    steps[2].sweeps_num = 0
    steps[-1].meta_keys.remove('lidar_aug_matrix')
    done, new = fix(written(cfg, tmp_path), tmp_path, 8)
    assert {'sweeps-differ', 'lidar-aug-matrix-missing', 'matrices-not-packed'} <= {finding.rule for finding in done}
    assert errors(new, 8) == []


@pytest.mark.parametrize(
    'options',
    [
        {'param_scheduler.0.pct_start': 3},
        {'param_scheduler.0.type': 'OneCicle'},
        {'param_scheduler.0.extra': 1},
        {'optim_wrapper.optimizer.lr': 'high'},
        {'optim_wrapper.accumulative_counts': 'many'},
        {'optim_wrapper.optimizer.type': 'AdamX'},
    ],
)
def test_what_is_not_understood_is_left_as_it_is_written(options, tmp_path):
    cfg = Config.fromfile(CONFIGS / 'bevfusion_4x4090.py')
    cfg.merge_from_dict(options)
    written(cfg, tmp_path)
    cfg = Config.fromfile(tmp_path / 'base.py')
    assert errors(cfg)
    done, new = fix(cfg, tmp_path)
    assert new.param_scheduler == cfg.param_scheduler and new.optim_wrapper == cfg.optim_wrapper
    assert errors(new)


def test_every_changed_setting_is_shown_with_both_values():
    cfg = Config(dict(a=dict(b=1), c=[dict(d=2)]))
    finding = Finding('r', 'error', '', '', '', {'a.b': 3, 'c.0.d': 4, 'e.f': 5})
    assert change_lines(cfg, [finding]) == ['a.b: 1 -> 3', 'c.0.d: 2 -> 4', 'e.f: not set -> 5']


# ---- whole configs


@pytest.mark.parametrize('make', [reference_fusion, reference_lidar])
@pytest.mark.parametrize('gpus', [1, 4, 8])
def test_a_mended_reference_has_no_error_left(make, gpus, tmp_path):
    cfg = written(make(), tmp_path)
    assert errors(cfg, gpus)
    assert errors(fix(cfg, tmp_path, gpus)[1], gpus) == []


@pytest.mark.parametrize('name', PACKAGED)
def test_a_mended_packaged_config_has_no_error_left(name, tmp_path):
    assert errors(fix(packaged(name), tmp_path, 1)[1], 1) == []


def places(value):
    """Every (container, key) in a config."""
    if isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            yield from places(each)


def perturbed(plain, seed):
    """``plain`` with some keys deleted and some values replaced by others, often of another type."""
    rng = random.Random(seed)
    for _ in range(rng.choice([1, 1, 2, 4, 8])):
        top = rng.choice([key for key in PERTURBED if key in plain])
        container, key = rng.choice([(plain, top), *places(plain[top])])
        if rng.random() < 0.3:
            container.pop(key)
        else:
            container[key] = copy.deepcopy(rng.choice(VALUES))
    return plain


@pytest.fixture(scope='module')
def sound_configs():
    return [
        *(Config.fromfile(CONFIGS / name).to_dict() for name in OURS),
        *(packaged(name).to_dict() for name in PACKAGED),
        reference_fusion().to_dict(),
        reference_lidar().to_dict(),
    ]


def without(value, keys):
    """``value`` as a plain dict with the dotted ``keys`` taken out, and dicts that are empty then, too."""
    if isinstance(value, dict):
        inner = {
            name: without(each, [key.partition('.')[2] for key in keys if key.partition('.')[0] == str(name)])
            for name, each in value.items()
            if str(name) not in keys
        }
        return {name: each for name, each in inner.items() if each or not isinstance(each, dict)}
    if isinstance(value, (list, tuple)):
        return [
            without(each, [key.partition('.')[2] for key in keys if key.partition('.')[0] == str(index)])
            for index, each in enumerate(value)
            if str(index) not in keys
        ]
    return value


@pytest.mark.parametrize('seed', range(32))
def test_no_random_config_makes_the_doctor_fail_and_a_mend_changes_what_it_names_alone(seed, sound_configs, tmp_path):
    plain = perturbed(copy.deepcopy(sound_configs[seed % len(sound_configs)]), seed)
    cfg = written(Config(plain, format_python_code=False), tmp_path)
    done, new = fix(cfg, tmp_path)
    named = [key for finding in done for key in finding.changes]
    empty = [key.rpartition('.')[0] for key in named]  # None or [] that a change was written into
    places = named + [key for key in empty if key and key.count('.') == 0 and not cfg.get(key)]
    assert repr(without(new.to_dict(), places)) == repr(without(cfg.to_dict(), places))
    left = {finding.rule for finding in examine(Case(new, quick=True), 'error')}
    assert left <= {finding.rule for finding in examine(Case(cfg, quick=True), 'error')} | {finding.rule for finding in done}
