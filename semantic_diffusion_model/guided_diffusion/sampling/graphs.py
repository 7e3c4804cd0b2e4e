"""CUDA graphs: a step of sampling is hundreds of small kernels, which a graph starts with one call."""

import warnings
from collections.abc import Callable

import torch


class Graphed:
    """function(*tensors) -> tensor without gradients; on a GPU recorded at its second call and replayed from then on.

    Every call must bring tensors of the same shapes and types, and what else the function reads (weights, tables) must
    stay where it is. The first call runs as it is: whatever is made once (tables, compiled kernels, the choice of
    convolutions) is made there. If the function cannot be recorded it is called, after one warning. A graph holds the
    memory of all that it computes until it is deleted: the function must not refer back to what holds this object.
    """

    def __init__(self, function: Callable[..., torch.Tensor]):
        self.function = function
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    @torch.no_grad()
    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 2 and tensors[0].is_cuda:
            self._record(tensors)
        if self.graph is None:
            return self.function(*tensors)
        for own, given in zip(self.inputs, tensors, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.output.clone()  # the next replay overwrites it

    def _record(self, examples: tuple[torch.Tensor, ...]) -> None:
        self.inputs = [example.clone() for example in examples]
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads (of a loader that pins memory, say) may go on calling CUDA meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.output = self.function(*self.inputs)
        except RuntimeError as error:  # out of memory, too: the call before has just shown that it goes without
            warnings.warn(f"sampling runs without a CUDA graph, which is slower: {error}", stacklevel=3)
        else:
            self.graph = graph
