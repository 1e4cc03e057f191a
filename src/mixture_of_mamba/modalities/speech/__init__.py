"""Speech: files, log-mel frames, units."""
