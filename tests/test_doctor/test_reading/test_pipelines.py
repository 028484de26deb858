from mmengine.config import Config

from bevfusion_plugin.doctor.reading.pipelines import pasting, pipeline, pipelines


def test_every_data_set_of_a_concatenation_has_its_pipeline():
    dataset = dict(
        type='CBGSDataset',
        dataset=dict(
            type='ConcatDataset',
            datasets=[dict(pipeline=[dict(type='A')]), dict(type='RepeatDataset', dataset=dict(pipeline=[dict(type='ObjectSample')]))],
        ),
    )
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    keys = [each.key for each in pipelines(cfg)]
    assert keys == ['train_dataloader.dataset.dataset.datasets.0.pipeline', 'train_dataloader.dataset.dataset.datasets.1.dataset.pipeline']
    assert pasting(cfg).key == keys[1] and pipeline(cfg, 'train').key == keys[0]
