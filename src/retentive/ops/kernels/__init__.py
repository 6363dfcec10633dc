"""Chunkwise retention on CUDA, as Triton kernels; `choice.has_kernel` decides where. No import loads Triton."""
