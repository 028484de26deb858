"""The camera branch: image neck, view transform and its geometry."""
