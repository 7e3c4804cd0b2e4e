"""Semantic diffusion: the network, the process, its samplers, and the training."""
