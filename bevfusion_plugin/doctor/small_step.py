"""One small training step of a config's model, to see that its parts fit each other: what no reading of the config proves."""

from __future__ import annotations

from mmengine.config import Config

from bevfusion_plugin.doctor.buildable import reason
from bevfusion_plugin.doctor.reading.config import is_ours, mapping


def can_step(cfg: Config) -> bool:
    """Whether a batch can be made up for the model: it is this package's BEVFusion."""
    return is_ours(mapping(cfg.get('model')), 'BEVFusion')


def step_fault(cfg: Config) -> str | None:
    """What building the model or its forward and backward pass fails with, in one line; None if nothing does.

    One sample, one camera, a sector of a lidar scene, at the real grid and image size on the CPU; products of matrices are left
    out, since only whether the shapes fit is asked.

    Args:
        cfg: The whole config of a model that :func:`can_step`; it is not changed.
    """
    from bevfusion_plugin.doctor.memory.bevfusion_memory import SECTOR, build_model, quiet_logger
    from bevfusion_plugin.doctor.memory.saved_tensors import WithoutProducts
    from bevfusion_plugin.doctor.memory.synthetic_batch import cameras_of, synthetic_batch

    try:
        with quiet_logger(), WithoutProducts():
            model = build_model(cfg)
            data = model.data_preprocessor(synthetic_batch(cfg, 1, min(1, cameras_of(cfg)), SECTOR), training=True)
            loss, _ = model.parse_losses(model.loss(data['inputs'], data['data_samples']))
            loss.backward()
    except Exception as error:  # a model's own code
        return reason(error)
    return None
