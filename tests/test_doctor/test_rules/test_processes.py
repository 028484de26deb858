import pytest
from mmengine.config import Config
from reference_recipes import reference_fusion

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.mend import changed
from bevfusion_plugin.doctor.rules.processes import check_timeout


def recipe(**dist_cfg):
    cfg = reference_fusion()
    cfg.env_cfg.dist_cfg.update(dist_cfg)
    return cfg


@pytest.mark.parametrize('dist_cfg, said', [({}, 'is not set'), (dict(timeout=1800), 'is 1800 s')])
def test_ranks_that_would_give_up_during_the_evaluation_are_noticed_and_mended(dist_cfg, said):
    problem, = check_timeout(Case(recipe(**dist_cfg), 8))
    assert said in problem.message and not list(check_timeout(Case(changed(recipe(**dist_cfg), problem.changes), 8)))


@pytest.mark.parametrize('cfg, gpus', [(recipe(timeout=7200), 8), (recipe(), 1), (Config(dict(model=dict(type='X'))), 8)])
def test_one_process_a_long_wait_or_no_such_metric_are_fine(cfg, gpus):
    assert not list(check_timeout(Case(cfg, gpus)))
