"""Training: one loop, its configuration, checkpoints and run folders.

`train.config`, `train.loop.train` and `train.runs.load_run` are the ways in; nothing is imported
here, so that reading a config does not import Lightning.
"""
