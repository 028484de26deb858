"""The parts of BEVFusion that mmdet3d's package does not ship."""
