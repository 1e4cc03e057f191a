"""What many tests start from: tiny data, models, training runs and comparisons."""
