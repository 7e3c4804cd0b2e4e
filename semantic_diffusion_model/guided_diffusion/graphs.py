"""CUDA graphs: a step of sampling is hundreds of small kernels, which a graph starts with one call."""

import warnings
from collections.abc import Callable

import torch


class Graphed:
    """function(*tensors) -> tensor without gradients, recorded once and replayed; on a CPU simply called.

    Every call must bring tensors of the shapes and types of `examples`; the result is overwritten by the next call.
    What else the function reads (weights, tables) must stay where it is. If it cannot be recorded, it is called, after
    one warning.
    """

    def __init__(self, function: Callable[..., torch.Tensor], *examples: torch.Tensor):
        self.function = function
        self.graph: torch.cuda.CUDAGraph | None = None
        if not examples[0].is_cuda:
            return
        self.inputs = [example.clone() for example in examples]
        try:
            self._record()
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.graph = None
            warnings.warn(f"sampling runs without a CUDA graph, which is slower: {error}", stacklevel=2)

    @torch.no_grad()
    def _record(self) -> None:
        side = torch.cuda.Stream()  # recording needs another stream, on which everything has run before
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.function(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.output = self.function(*self.inputs)
        self.graph = graph

    @torch.no_grad()
    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor:
        if self.graph is None:
            return self.function(*tensors)
        for own, given in zip(self.inputs, tensors, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.output
