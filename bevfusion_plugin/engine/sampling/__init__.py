"""Which samples an update sees, and their random numbers, whatever GPUs the training runs on."""
