import numpy as np
import pytest

from bevfusion_plugin.datasets.object_sample import ObjectSample


def test_the_label_type_that_mmdet3d_names_exists_on_every_numpy(monkeypatch):
    monkeypatch.delattr(np, 'long', raising=False)
    with pytest.raises(KeyError, match='NoSuchSampler'):  # a real one needs a database; the type is there before it is built
        ObjectSample(db_sampler=dict(type='NoSuchSampler'))
    assert np.array([1], dtype=vars(np)['long']).dtype == np.int64
