import pytest
import torch
from mmengine.config import Config

from bevfusion_plugin import AccumulativeAmpOptimWrapper, AutoScaleLRHook
from bevfusion_plugin.engine.checkpoints.checked_loading import BrokenCheckpoint
from bevfusion_plugin.launch.config_file import load_config
from bevfusion_plugin.launch.flags import set_amp, set_auto_scale_lr, set_compile, set_resume, set_seed, set_work_dir
from bevfusion_plugin.registry import OPTIM_WRAPPERS


def test_work_dir_is_the_flag_then_the_config_then_the_name(config_file):
    cfg = load_config(config_file)
    set_work_dir(cfg, None)
    assert cfg.work_dir == 'work_dirs/recipe'
    set_work_dir(cfg, 'flag')
    assert cfg.work_dir == 'flag'


def test_amp_puts_in_our_wrapper_and_keeps_the_rest(config_file):
    cfg = load_config(config_file)
    set_amp(cfg)
    assert cfg.optim_wrapper.type == 'bevfusion_plugin.AccumulativeAmpOptimWrapper'
    assert cfg.optim_wrapper.dtype == 'float16' and cfg.optim_wrapper.optimizer.lr == 0.1


def test_new_style_configs_name_their_classes_themselves():
    cfg = Config(
        dict(
            optim_wrapper=dict(type=AccumulativeAmpOptimWrapper),
            custom_hooks=[dict(type=AutoScaleLRHook)],
            auto_scale_lr=dict(base_batch_size=32),
        )
    )
    set_amp(cfg, 'float16')
    set_auto_scale_lr(cfg, 'linear')
    assert cfg.optim_wrapper.dtype == 'float16' and len(cfg.custom_hooks) == 1


OURS = 'bevfusion_plugin.AccumulativeAmpOptimWrapper'


@pytest.mark.parametrize(
    'wrapper, flag, dtype',
    [
        (dict(type='OptimWrapper'), 'auto', 'float16'),
        (dict(type=OURS, dtype='float32'), 'auto', 'float16'),
        (dict(type=OURS, dtype='bfloat16'), 'auto', 'bfloat16'),
        (dict(type=OURS, dtype=torch.bfloat16), 'auto', torch.bfloat16),
        (dict(type='AmpOptimWrapper', dtype='bfloat16'), 'auto', 'bfloat16'),
        (dict(type=OURS), 'auto', None),
        (dict(type=OURS, dtype='bfloat16'), 'float16', 'float16'),
        (dict(type=OURS), 'bfloat16', 'bfloat16'),
        (dict(type='OptimWrapper', dtype='bfloat16'), 'auto', 'float16'),
    ],
)  # there it is no setting
def test_amp_keeps_the_half_precision_of_a_config_and_chooses_where_told_to(wrapper, flag, dtype):
    cfg = Config(dict(optim_wrapper=wrapper))
    set_amp(cfg, flag)
    assert cfg.optim_wrapper.get('dtype') == dtype and cfg.optim_wrapper.type == OURS


def test_amp_in_bfloat16_has_no_scaler():
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper')))
    set_amp(cfg, 'bfloat16')
    model = torch.nn.Linear(2, 1)
    wrapper = OPTIM_WRAPPERS.build(dict(cfg.optim_wrapper, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)))
    assert wrapper.loss_scaler is None and wrapper.cast_dtype is torch.bfloat16


def test_amp_refuses_another_format():
    with pytest.raises(ValueError, match="--amp must be one of 'auto', 'float16', 'bfloat16', got 'float8'"):
        set_amp(Config(dict(optim_wrapper=dict(type='OptimWrapper'))), 'float8')


def test_amp_refuses_an_unknown_wrapper():
    with pytest.raises(ValueError, match="does not know the optimizer wrapper 'DeepSpeed'"):
        set_amp(Config(dict(optim_wrapper=dict(type='DeepSpeed'))))


def test_a_seed_leaves_the_rest_of_randomness():
    cfg = Config(dict(randomness=dict(deterministic=True, seed=1)))
    set_seed(cfg, 0)
    assert cfg.randomness == dict(deterministic=True, seed=0)


def test_auto_scale_lr_brings_its_hook_once():
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=32)))
    set_auto_scale_lr(cfg, 'sqrt')
    set_auto_scale_lr(cfg, 'sqrt')
    assert cfg.auto_scale_lr == dict(base_batch_size=32, enable=True, rule='sqrt')
    assert [hook['type'] for hook in cfg.custom_hooks] == ['bevfusion_plugin.AutoScaleLRHook']


def test_auto_scale_lr_needs_the_batch_the_lr_was_tuned_for():
    with pytest.raises(ValueError, match='auto_scale_lr.base_batch_size'):
        set_auto_scale_lr(Config(dict(auto_scale_lr=dict(enable=False))), 'linear')


def test_resume_auto_starts_as_configured_when_there_is_no_checkpoint_yet(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path), load_from='lidar.pth'))
    set_resume(cfg, 'auto')
    assert not cfg.get('resume') and cfg.load_from == 'lidar.pth'


def write_checkpoint(path, epoch=1):
    torch.save(dict(meta=dict(seed=7, epoch=epoch, iter=8 * epoch), state_dict={}, optimizer={}, message_hub={}), path)
    return str(path)


@pytest.mark.parametrize('flag, config', [('auto', dict(load_from='lidar.pth')), (None, dict(resume=True))])
def test_resume_auto_takes_the_newest_checkpoint_over_load_from(tmp_path, flag, config):
    newest = [write_checkpoint(tmp_path / f'epoch_{epoch}.pth', epoch) for epoch in (9, 10)][-1]
    cfg = Config(dict(config, work_dir=str(tmp_path)))
    set_resume(cfg, flag)
    assert cfg.resume and cfg.load_from == newest


def test_resume_says_what_it_passes_over_and_why(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('bevfusion_plugin.launch.flags.print_log', lambda text, *_: said.append(text))
    whole = write_checkpoint(tmp_path / 'epoch_1.pth')
    (tmp_path / 'epoch_2.pth').touch()
    set_resume(Config(dict(work_dir=str(tmp_path))), 'auto')
    assert said == [f'--resume passes over: the checkpoint {tmp_path}/epoch_2.pth is empty', f'--resume goes on from {whole}']


@pytest.mark.parametrize('resume', ['auto', 'path'])
@pytest.mark.parametrize('randomness, seed', [(None, 7), (dict(deterministic=True), 7), (dict(seed=3), 3)])
def test_a_resumed_run_keeps_the_seed_of_its_checkpoint(tmp_path, resume, randomness, seed):
    checkpoint = write_checkpoint(tmp_path / 'epoch_1.pth')
    cfg = Config(dict(work_dir=str(tmp_path), **({} if randomness is None else dict(randomness=randomness))))
    set_resume(cfg, 'auto' if resume == 'auto' else checkpoint)
    assert cfg.randomness == dict(randomness or {}, seed=seed)


def test_resume_from_weights_alone_is_refused(tmp_path):
    torch.save(dict(meta=dict(epoch=1, iter=8), message_hub={}, state_dict={}), tmp_path / 'best.pth')
    with pytest.raises(BrokenCheckpoint, match=r'best.pth lacks optimizer \(optimizer state\): a training cannot go on'):
        set_resume(Config(dict(work_dir=str(tmp_path))), str(tmp_path / 'best.pth'))


def test_resume_from_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no checkpoint'):
        set_resume(Config(dict(work_dir=str(tmp_path))), str(tmp_path / 'no.pth'))


def test_compile_reaches_our_detector_and_keeps_the_configs_arguments():
    cfg = Config(dict(model=dict(type='bevfusion_plugin.BEVFusion')))
    set_compile(cfg)
    assert cfg.model.compiled is True
    cfg.model.compiled = dict(mode='max-autotune')
    set_compile(cfg)
    assert cfg.model.compiled == dict(mode='max-autotune')


def test_compile_of_another_detector_names_mmengines_own():
    with pytest.raises(ValueError, match="knows bevfusion_plugin.BEVFusion, got the model 'CenterPoint'; .* --cfg-options compile=True"):
        set_compile(Config(dict(model=dict(type='CenterPoint'))))
