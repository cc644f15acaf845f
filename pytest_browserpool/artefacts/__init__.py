"""What is downloaded: one cache directory, the fetchers that fill it, and the pins of our own needs."""
