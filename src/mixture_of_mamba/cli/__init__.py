"""The command line: one module for each sub-command of `mom`."""
