"""How a training step is taken: needs torch and mmengine, no model and no mmdet3d."""
__all__: list[str] = []
