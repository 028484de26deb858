import pytest
from mmengine.config import Config
from reference_recipes import reference_fusion

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.mend import changed
from bevfusion_plugin.doctor.rules.processes import check_lengths, check_peer_to_peer, check_timeout


def recipe(**dist_cfg):
    cfg = reference_fusion()
    cfg.env_cfg.dist_cfg.update(dist_cfg)
    return cfg


@pytest.mark.parametrize('dist_cfg, said', [({}, 'is not set'), (dict(timeout=1800), 'is 1800 s')])
def test_ranks_that_would_give_up_during_the_evaluation_are_noticed_and_mended(dist_cfg, said):
    (problem,) = check_timeout(Case(recipe(**dist_cfg), 8))
    assert said in problem.message and not list(check_timeout(Case(changed(recipe(**dist_cfg), problem.changes), 8)))


@pytest.mark.parametrize('cfg, gpus', [(recipe(timeout=7200), 8), (recipe(), 1), (Config(dict(model=dict(type='X'))), 8)])
def test_one_process_a_long_wait_or_no_such_metric_are_fine(cfg, gpus):
    assert not list(check_timeout(Case(cfg, gpus)))


@pytest.fixture
def cards(monkeypatch):
    """The GPUs of this machine, by their names."""
    names = ['NVIDIA GeForce RTX 4090', 'NVIDIA GeForce RTX 4090', 'NVIDIA GeForce RTX 4080 SUPER']
    monkeypatch.delenv('NCCL_P2P_DISABLE', raising=False)
    monkeypatch.setattr('torch.cuda.is_available', lambda: bool(names))
    monkeypatch.setattr('torch.cuda.device_count', lambda: len(names))
    monkeypatch.setattr('torch.cuda.get_device_name', lambda index: names[index])
    return names


NCCL = Config(dict(env_cfg=dict(dist_cfg=dict(backend='nccl'))))


def test_cards_without_peer_to_peer_are_named_once_each_with_the_variable_to_set(cards):
    (problem,) = check_peer_to_peer(Case(NCCL, 3))
    assert problem.message.startswith('NVIDIA GeForce RTX 4080 SUPER, NVIDIA GeForce RTX 4090: ') and 'NCCL_P2P_DISABLE=1' in problem.mend
    assert list(check_peer_to_peer(Case(Config(dict(num_gpus=4))))), 'nccl is the default'
    assert list(check_peer_to_peer(Case(NCCL, 8, ranks_here=2)))


@pytest.mark.parametrize('value', ['0', '1'])
def test_a_user_who_has_decided_is_not_asked_again(cards, monkeypatch, value):
    monkeypatch.setenv('NCCL_P2P_DISABLE', value)
    assert not list(check_peer_to_peer(Case(NCCL, 3)))


@pytest.mark.parametrize(
    'case',
    [Case(NCCL, 1), Case(NCCL, 2, ranks_here=1), Case(Config(dict(env_cfg=dict(dist_cfg=dict(backend='gloo')))), 4)],
    ids=['one rank', 'one a machine', 'gloo'],
)
def test_ranks_that_do_not_share_a_machine_or_nccl_need_nothing(cards, case):
    assert not list(check_peer_to_peer(case))


@pytest.mark.parametrize(
    'names', [[], ['NVIDIA A100-SXM4-80GB'] * 2, ['NVIDIA GeForce RTX 3090'] * 2, ['NVIDIA RTX 4000 Ada Generation'] * 2]
)
def test_other_cards_or_none_are_fine(cards, names):
    cards[:] = names
    assert not list(check_peer_to_peer(Case(NCCL, 2)))


def sampled(samples=None, kind='DefaultSampler', b=2, drop_last=False, **sampler):
    """A config whose training has so many samples, as far as the doctor knows."""
    loader = dict(batch_size=b, drop_last=drop_last, sampler=dict(type=kind, **sampler), dataset=dict(type='ToyData'))
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), train_dataloader=loader))
    case = Case(cfg, 2)
    case.samples = samples
    return case


@pytest.mark.parametrize(
    'samples, drop_last, said',
    [(None, False, 'may differ by one'), (13, False, 'are 4 or 3'), (9, False, 'are 3 or 2'), (15, True, 'are 4 or 3')],
)
def test_ranks_that_would_wait_for_one_another_for_ever_are_an_error_and_mended(samples, drop_last, said):
    (problem,) = check_lengths(sampled(samples, drop_last=drop_last, round_up=False))
    assert said in problem.message and not list(check_lengths(Case(changed(sampled(round_up=False).cfg, problem.changes), 2)))


@pytest.mark.parametrize(
    'case',
    [
        sampled(13),
        sampled(13, round_up=True),
        sampled(15, round_up=False),
        sampled(16, round_up=False),
        sampled(13, drop_last=True, round_up=False),
        sampled(13, 'InfiniteSampler', round_up=False),
        sampled(13, b='x', round_up=False),
    ],
)
def test_ranks_of_equal_length_are_fine(case):
    assert not list(check_lengths(case))
