"""What one process does for its tests: models resolved, placed in browsers, run, and what came of it told."""
