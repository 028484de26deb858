"""The lidar branch."""
