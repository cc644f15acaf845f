"""Real models in real browsers: what a suite of a user looks like, and this project's main job."""
