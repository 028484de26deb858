"""What happens beside a training step: scaling, watching, averaging, seeding."""
