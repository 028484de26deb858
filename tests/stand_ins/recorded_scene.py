"""The recorded batch of lidar and cameras as a data set, for tools that test a checkpoint."""

from __future__ import annotations

from detector_goldens import recorded_batch
from goldens import load_golden
from torch.utils.data import Dataset


class RecordedScene(Dataset):
    """Its samples as mmdet3d packs them, with their ground truth."""

    metainfo = dict(classes=[f'kind_{number}' for number in range(10)])

    def __init__(self) -> None:
        self.batch = recorded_batch(load_golden('e2e_lidar_cam'))

    def __len__(self) -> int:
        return len(self.batch['data_samples'])

    def __getitem__(self, index: int) -> dict:
        return dict(
            inputs={name: each[index] for name, each in self.batch['inputs'].items()},
            data_samples=self.batch['data_samples'][index].clone(),
        )
