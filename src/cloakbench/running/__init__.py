"""How a job runs: its seeds and checkpoints, its output, its GPU, and the machine that it is on."""
