"""A real language model for sharded tests: from GGUF weights to an ONNX graph with a KV cache."""
