"""The browser pool of one node: discovery, launch, pages, sessions."""
