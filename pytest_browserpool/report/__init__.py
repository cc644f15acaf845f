"""What a person sees of a run: the HTML report's columns and run section, the terminal's summary."""
