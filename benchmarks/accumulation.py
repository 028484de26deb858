"""Time of an accumulation window: bare PyTorch, MMEngine's OptimWrapper, and AccumulativeAmpOptimWrapper.

Bare is A forward and backward passes, one optimizer step and one zero_grad: no weights, no norm, no clip, no check. On a CPU
the clock counts the process's own time, so that other work on the machine does not blur it; the three ways take turns.

    OMP_NUM_THREADS=1 python benchmarks/accumulation.py
    python benchmarks/accumulation.py --device cuda --channels 256 --size 128
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from bevfusion_plugin import AccumulativeAmpOptimWrapper


class ConvNet(nn.Module):
    """Eight 3 x 3 convolutions with BatchNorm, and a mean squared output as the loss."""

    def __init__(self, channels: int):
        super().__init__()
        layers = [(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()) for _ in range(8)]
        self.layers = nn.Sequential(*(part for layer in layers for part in layer))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return dict(loss_fit=self.layers(x).square().mean())


def bare_window(model: ConvNet, optimizer: torch.optim.Optimizer, batches: list[Tensor]) -> None:
    """What accumulation costs at least."""
    for x in batches:
        (model(x)['loss_fit'] / len(batches)).backward()
    optimizer.step()
    optimizer.zero_grad()


def wrapped_window(model: ConvNet, wrapper: OptimWrapper, batches: list[Tensor]) -> None:
    """One window as a model's ``train_step`` makes it."""
    for x in batches:
        with wrapper.optim_context(model):
            losses = model(x)
        wrapper.update_params(losses['loss_fit'])


def build_ways(args: argparse.Namespace) -> dict[str, Callable[[list[Tensor]], None]]:
    """The ways by name, each with a model of its own that starts from the same weights."""

    def fresh() -> tuple[ConvNet, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = ConvNet(args.channels).to(args.device)
        return model, torch.optim.AdamW(model.parameters(), lr=1e-4)

    def wrapped(wrapper_type: type[OptimWrapper], **settings) -> Callable[[list[Tensor]], None]:
        model, optimizer = fresh()
        wrapper = wrapper_type(optimizer=optimizer, accumulative_counts=args.counts, **settings)
        return lambda batches: wrapped_window(model, wrapper, batches)

    model, optimizer = fresh()
    clip = dict(max_norm=35, norm_type=2)
    return {
        'bare PyTorch': lambda batches: bare_window(model, optimizer, batches),
        'MMEngine, clipped': wrapped(OptimWrapper, clip_grad=dict(clip)),
        'ours': wrapped(AccumulativeAmpOptimWrapper, dtype='float32'),
        'ours, clipped': wrapped(AccumulativeAmpOptimWrapper, dtype='float32', clip_grad=clip),
    }


def seconds(way: Callable[[list[Tensor]], None], batches: list[Tensor], device: str) -> float:
    """Time of one window."""
    clock = time.perf_counter if device == 'cuda' else time.process_time
    start = clock()
    way(batches)
    if device == 'cuda':
        torch.cuda.synchronize()
    return clock() - start


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--counts', type=int, default=4, help='micro-batches a window')
    parser.add_argument('--windows', type=int, default=30)
    parser.add_argument('--channels', type=int, default=64)
    parser.add_argument('--size', type=int, default=64, help='height and width')
    parser.add_argument('--samples', type=int, default=2)
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    args = parser.parse_args(argv)
    batches = [torch.randn(args.samples, args.channels, args.size, args.size, device=args.device) for _ in range(args.counts)]
    ways = build_ways(args)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.windows + 2):
        names = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]  # none is always the first
        for name in names:
            taken = seconds(ways[name], batches, args.device)
            if turn >= 2:  # the first two warm up
                times[name].append(taken)
    bare = statistics.median(times['bare PyTorch'])
    for name, taken in times.items():
        # Ratios turn by turn: whatever slows a turn slows all of its ways.
        over = statistics.median(t / b for t, b in zip(taken, times['bare PyTorch'])) - 1
        print(f'{name:<20} {statistics.median(taken) * 1e3:8.1f} ms a window of {args.counts}  {over:+7.2%} over bare')
    print(f'median of {args.windows} windows; bare: {bare / args.counts * 1e3:.1f} ms a micro-batch')


if __name__ == '__main__':
    main()
