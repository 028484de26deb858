"""The toy models of the OpenPCDet goldens, their recorded data, and a dataset and model for a Runner."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any
from collections.abc import Iterator

import numpy as np
import torch
from goldens import golden_path
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn
from torch.utils.data import Dataset


class MLP(nn.Module):
    """No BatchNorm."""

    def __init__(self, i: int, h: int, o: int):
        super().__init__()
        self.fc1, self.act1 = nn.Linear(i, h), nn.Tanh()
        self.fc2, self.act2 = nn.Linear(h, h), nn.ReLU()
        self.head = nn.Linear(h, o)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act2(self.fc2(self.act1(self.fc1(x)))))


class ConvBN(nn.Module):
    """Convolutions without bias, each with its BatchNorm."""

    def __init__(self, i: int, c: int, o: int):
        super().__init__()
        self.stem = nn.Sequential(OrderedDict(conv=nn.Conv2d(i, c, 3, padding=1, bias=False), bn=nn.BatchNorm2d(c), act=nn.ReLU()))
        self.block = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(c, c, 3, stride=2, padding=1, bias=False), bn=nn.BatchNorm2d(c), act=nn.Tanh())
        )
        self.fc = nn.Linear(c * 9, o)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.block(self.stem(x)).flatten(1))


class Gate(nn.Module):
    """A parameter beside a child module."""

    def __init__(self, h: int):
        super().__init__()
        self.gain = nn.Parameter(torch.full((h,), 0.5))
        self.lin = nn.Linear(h, h)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lin(x) * self.gain


class OnlyParam(nn.Module):
    """A parameter in a module without children."""

    def __init__(self, h: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(h))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.bias


class Direct(nn.Module):
    """Parameters beside child modules at several depths, one of them of an attention."""

    def __init__(self, i: int, h: int, o: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(h))
        self.fc1 = nn.Linear(i, h)
        self.gate = Gate(h)
        self.attn = nn.MultiheadAttention(h, 2, bias=False, batch_first=True)
        self.extra = OnlyParam(h)
        self.head = nn.Linear(h, o)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # x: (B, T, i)
        y = torch.tanh(self.fc1(x)) * self.scale
        y = torch.tanh(self.gate(y))
        y = y + self.attn(y, y, y, need_weights=False)[0]
        return self.head(self.extra(y)).mean(1)


class Unused(nn.Module):
    """``aux`` is trainable but never gets a gradient."""

    def __init__(self, i: int, h: int, o: int):
        super().__init__()
        self.fc1, self.act, self.head = nn.Linear(i, h), nn.Tanh(), nn.Linear(h, o)
        self.aux = nn.Linear(h, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.fc1(x)))


class Norms(nn.Module):
    """Every kind of norm, lists, a tied parameter and a module registered twice; it has no forward."""

    def __init__(self, c: int):
        super().__init__()
        self.a = nn.Sequential(nn.Conv1d(c, c, 1), nn.BatchNorm1d(c), nn.GroupNorm(1, c))
        self.b = nn.Sequential(nn.Sequential(nn.Conv3d(1, c, 1), nn.BatchNorm3d(c)), nn.InstanceNorm2d(c, affine=True))
        self.c = nn.ModuleDict({'sync': nn.SyncBatchNorm(c), 'ln': nn.LayerNorm(c), 'bn_noaffine': nn.BatchNorm2d(c, affine=False)})
        self.plist = nn.ParameterList([nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(3))])
        self.emb = nn.Embedding(3, c)
        self.tied = nn.Linear(c, 3, bias=False)
        self.tied.weight = self.emb.weight
        self.again = self.a[1]
        self.up = nn.ModuleList([nn.ConvTranspose2d(c, 1, 2), nn.PReLU(), nn.BatchNorm2d(1)])


ARCH = dict(mlp=MLP, convbn=ConvBN, direct=Direct, unused=Unused, norms=Norms)


class Recorded:
    """The cases of ``schedules`` or ``trajectories``: the json and its arrays."""

    def __init__(self, what: str):
        self.json = json.loads(golden_path(f'{what}.json', 'openpcdet').read_text())
        with np.load(golden_path(f'{what}.npz', 'openpcdet')) as arrays:
            self.arrays = {key: arrays[key] for key in arrays.files}
        self.cases: list[dict[str, Any]] = self.json['cases']

    def array(self, case: dict[str, Any], name: str) -> np.ndarray:
        return self.arrays[case['arrays'][name]]

    def model(self, case: dict[str, Any]) -> nn.Module:
        """The case's model with its recorded initial values, frozen as recorded before building the optimizer."""
        recorded = self.json['models'][case['model']]
        model = ARCH[recorded['arch']](*recorded['dims'])
        state = unflatten(self.arrays[recorded['data']['init']], recorded['param_layout'])
        if recorded['data']['init_buffers']:
            state |= unflatten(self.arrays[recorded['data']['init_buffers']], recorded['buffer_layout'])
        model.load_state_dict(state, strict=False)
        set_frozen(model, recorded['frozen_before_build'])
        return model.to(getattr(torch, case['dtype'])).train()

    def freeze_after_build(self, case: dict[str, Any], model: nn.Module) -> None:
        set_frozen(model, self.json['models'][case['model']]['frozen_after_build'])

    def gradients(self, case: dict[str, Any]) -> Iterator[dict[str, torch.Tensor]]:
        """Gradients by name for every iteration, in the dtype of the case."""
        recorded = self.json['models'][case['model']]
        shapes = {name: shape for name, shape, _ in recorded['param_layout']}
        sizes = [int(np.prod(shapes[name], dtype=int)) for name in recorded['grad_layout']]
        rows = self.arrays[case.get('amp_grads', recorded['data']['grads'])].astype(case['dtype'])
        for row in torch.from_numpy(rows):
            yield {name: part.reshape(shapes[name]).clone() for name, part in zip(recorded['grad_layout'], row.split(sizes))}

    def batches(self, case: dict[str, Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        data = self.json['models'][case['model']]['data']
        for x, y in zip(self.arrays[data['x']], self.arrays[data['y']]):
            yield tuple(torch.from_numpy(array.astype(case['dtype'])) for array in (x, y))

    def flatten(self, case: dict[str, Any], tensors: dict[str, torch.Tensor]) -> np.ndarray:
        """Tensors by name as one vector in the recorded order; a missing one counts as zeros."""
        layout = self.json['models'][case['model']]['param_layout']
        return np.concatenate(
            [
                tensors[name].detach().double().flatten().numpy() if name in tensors else np.zeros(int(np.prod(shape, dtype=int)))
                for name, shape, _ in layout
            ]
        )


def unflatten(vector: np.ndarray, layout: list) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(vector[start : start + int(np.prod(shape, dtype=int))].reshape(shape).copy())
        for name, shape, start in layout
    }


def set_frozen(model: nn.Module, names: list[str]) -> None:
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.requires_grad_(False)


@DATASETS.register_module()
class ToyOnes(Dataset):
    """``length`` samples that are all ones."""

    def __init__(self, length: int = 10):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return dict(x=torch.ones(2))


@MODELS.register_module()
class ToyRecorder(BaseModel):
    """Trains one weight, and remembers the LR and beta1 or momentum that every update is about to use."""

    def __init__(self, data_preprocessor: dict | None = None):
        super().__init__(data_preprocessor)
        self.fc = nn.Linear(2, 1)
        self.seen: list[tuple[float, float]] = []

    def forward(self, x: torch.Tensor, mode: str = 'tensor') -> Any:
        return dict(loss=self.fc(x).square().mean()) if mode == 'loss' else self.fc(x)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, torch.Tensor]:
        before = optim_wrapper.get_lr()['lr'][0], optim_wrapper.get_momentum()['momentum'][0]
        logs = super().train_step(data, optim_wrapper)
        if optim_wrapper.should_update():
            self.seen.append(before)
        return logs
