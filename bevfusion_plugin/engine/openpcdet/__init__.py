"""OpenPCDet's optimisation in MMEngine's terms."""
