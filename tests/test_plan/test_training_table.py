from bevfusion_plugin.plan.batch_plan import BatchPlan
from bevfusion_plugin.plan.training_table import training_table


def test_the_table_of_the_reference_batch_on_four_gpus():
    table = training_table(BatchPlan(4, 2, 4, 32), [2e-4], 1.0, 15448, 6, 'epoch', [])
    assert '4 x 2 x A4 = 32' in table and 'updates an epoch              3862' in table
    assert '23172' in table


def test_the_table_says_if_the_rule_is_not_applied():
    table = training_table(BatchPlan(4, 3, 8, 32), [2e-4], 1.0, 10299, 6, 'epoch', [])
    assert 'rule                          linear, not applied (it would scale the LR by 3)' in table
    assert 'LR before -> after            0.0002 -> 0.0002 (x 1)' in table
