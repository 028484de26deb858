"""TransFusion's head: proposals, decoder, matching, targets, losses, boxes."""
