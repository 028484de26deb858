import numpy as np
import pytest
from mmdet3d.datasets import CBGSDataset as MMDet3DCBGSDataset
from mmengine.dataset import BaseDataset

from bevfusion_plugin.datasets.cbgs_dataset import CBGSDataset


class Labelled(BaseDataset):
    """A data set of which only the categories of each sample matter."""

    def __init__(self, categories, classes):
        self.categories = categories
        super().__init__(metainfo=dict(classes=classes), serialize_data=False)

    def load_data_list(self):
        return [dict(sample=index) for index in range(len(self.categories))]

    def get_cat_ids(self, idx):
        return self.categories[idx]


def test_same_samples_as_mmdet3d_where_every_class_occurs():
    categories = [{index % 3, (index * 7) % 3} | ({-1} if index % 5 == 0 else set()) for index in range(60)]
    drawn = []
    for kind in (CBGSDataset, MMDet3DCBGSDataset):
        np.random.seed(4)
        drawn.append(kind(Labelled(categories, ('a', 'b', 'c'))).sample_indices)
    assert drawn[0] == drawn[1] and len(drawn[0]) >= 60


def test_a_class_that_does_not_occur_is_left_out():
    # 3 (sample, class) pairs shared among 3 classes: one draw for 'a', one for 'c', none for 'b'
    drawn = CBGSDataset(Labelled([{0}, {0, 2}], ('a', 'b', 'c'))).sample_indices
    assert len(drawn) == 2 and drawn[1] == 1


def test_one_sample_is_drawn_once_for_each_of_its_classes():
    assert CBGSDataset(Labelled([{0, 1, 5}], 'abcdefghij')).sample_indices == [0, 0, 0]


def test_no_sample_with_a_trained_class_is_an_error():
    with pytest.raises(ValueError, match='none of the 2 samples has a box of the classes'):
        CBGSDataset(Labelled([{-1}, set()], ('a', 'b')))
