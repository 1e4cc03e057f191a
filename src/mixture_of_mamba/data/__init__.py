"""Documents to batches: sources, packing, and the prepared data they give (`build.build`)."""
