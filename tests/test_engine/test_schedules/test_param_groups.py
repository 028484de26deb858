from bevfusion_plugin.engine.schedules.param_groups import distinct_groups, group_values, set_momentum


def test_groups_are_told_apart_by_lr_and_momentum():
    groups = [dict(lr=1.0, betas=(0.9, 0.99)), dict(lr=1.0, betas=(0.9, 0.99)), dict(lr=2.0, betas=(0.9, 0.99))]
    assert list(distinct_groups(groups)) == [0, 2]
    assert group_values(distinct_groups(groups)) == dict(group0_lr=1.0, group0_beta1=0.9, group2_lr=2.0, group2_beta1=0.9)
    assert group_values(distinct_groups(groups[:2])) == dict(beta1=0.9)
    assert group_values(distinct_groups([dict(lr=1.0, momentum=0.5)])) == dict(momentum=0.5)
    assert group_values(distinct_groups([dict(lr=1.0)])) == {}


def test_momentum_is_written_where_the_optimizer_keeps_it():
    adam, sgd, plain = dict(betas=(0.9, 0.99)), dict(momentum=0.9), dict(lr=1.0)
    for group in (adam, sgd, plain):
        set_momentum(group, 0.5)
    assert (adam, sgd, plain) == (dict(betas=(0.5, 0.99)), dict(momentum=0.5), dict(lr=1.0))
