"""Models: where a test's ``source`` comes from, and what an ONNX graph says about itself."""
