"""From the command line to MMEngine's Runner: config, flags, examination, processes."""
