"""The memory a training needs, found on a made-up batch."""
