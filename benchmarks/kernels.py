"""Compile the modulation's kernels for GPUs that need not be there; the log goes to benchmarks/results/kernels.txt.

    python benchmarks/kernels.py [--capability 80 90 100] [--no-log]

What the published network of 256 channels launches in bf16, each kernel with the arguments it is launched with, forward
and backward: how many variants that makes, how long they take to compile one after the other, and what the compiler
says of them: registers per thread, bytes per thread that did not fit into registers, and reads of 16 bytes at once.
"""

import argparse
import itertools
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

os.environ["TRITON_INTERPRET"] = "0"

import diffusion_setup  # noqa: E402
import torch  # noqa: E402
import triton  # noqa: E402
from timing import RESULTS, Log  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from guided_diffusion.network import modulation_gpu  # noqa: E402

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
CHANNELS = (256, 512, 768, 1024, 1536, 2048)
FORMS = (  # with a table (decoder) or one row (encoder, attention); with the timestep; with SiLU
    (True, False, True),
    (True, True, True),
    (False, False, True),
    (False, True, True),
    (False, False, False),
)


def launch_all() -> None:
    """Forward and backward of every form, with tensors of the network's shapes on a CPU."""
    network = diffusion_setup.make_network(32, 256)
    for channels, size, (with_table, timestep, silu) in itertools.product(CHANNELS, (64, 8), FORMS):
        labels = diffusion_setup.echo_label_maps(2, 256)
        level = diffusion_setup.make_condition(network, labels, "table", True).level((size, size))
        x, grad = torch.zeros(2, 2, size, size, channels, dtype=torch.bfloat16).permute(0, 1, 4, 2, 3)
        # Under autocast a table is a product, in bf16; the one row is the weight and bias of a normalisation.
        rows, dtype = (len(level.patch_of_row), torch.bfloat16) if with_table else (1, torch.float32)
        table = torch.zeros(rows, 2 * channels, dtype=dtype)
        vectors = torch.zeros(2, 2, channels, dtype=torch.bfloat16) if timestep else (None, None)
        arguments = table, level if with_table else None, *vectors
        _, mean, rstd = modulation_gpu.forward(x, *arguments, silu)
        modulation_gpu.backward(grad, x, *arguments, mean, rstd, silu)


def compile_for(capability: int) -> dict[str, list[tuple[float, bytes]]]:
    """Seconds and machine code of each variant, by kernel."""
    target = GPUTarget("cuda", capability, 32)
    triton.runtime.driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: target,
            get_current_device=lambda: capability,  # what is compiled is remembered by device
            get_current_stream=lambda _: 0,
        )
    )
    made: dict[str, list[tuple[float, bytes]]] = {}
    seen, run = [], JITFunction.run

    def compile_only(function, *arguments, grid, warmup, **options):
        start = time.perf_counter()
        kernel = run(function, *arguments, grid=grid, warmup=True, **options)
        if not any(kernel is other for other in seen):
            seen.append(kernel)
            made.setdefault(function.__name__, []).append((time.perf_counter() - start, kernel.asm["cubin"]))

    with mock.patch.object(JITFunction, "run", compile_only):
        launch_all()
    return made


def inspect(code: bytes) -> tuple[int, int, int, int]:
    """Registers per thread, bytes of each thread in memory, reads, and reads of 16 bytes at once."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        used, listing = (
            subprocess.run([TOOLS / tool, *options, file.name], capture_output=True, text=True, check=True).stdout
            for tool, options in (("cuobjdump", ["--dump-resource-usage"]), ("nvdisasm", []))
        )
    registers, stack, local = (int(re.search(rf"{name}:(\d+)", used)[1]) for name in ("REG", "STACK", "LOCAL"))
    reads = re.findall(r"\bLDG\.\S+", listing)
    return registers, stack + local, len(reads), sum(".128" in read for read in reads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, nargs="+", default=[80, 90, 100], help="90: an H100 or H200")
    parser.add_argument("--no-log", action="store_true", help="show it only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    log = Log(RESULTS / "kernels.txt", packages=("torch", "triton"))
    for capability in options.capability:
        with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, TRITON_CACHE_DIR=cache):
            made = compile_for(capability)
        log.say(f"compute capability {capability / 10}")
        for name, variants in made.items():
            registers, spilled, reads, wide = map(max, zip(*(inspect(code) for _, code in variants), strict=True))
            took = sum(seconds for seconds, _ in variants)
            log.say(
                f"  {name:15s} {len(variants):2d} variants {took:5.1f} s; at most {registers:3d} registers, "
                f"{spilled:2d} bytes beside them, {reads:2d} reads, {wide:2d} of 16 bytes"
            )
        everything = [seconds for variants in made.values() for seconds, _ in variants]
        log.say(f"  in all {len(everything)} variants in {sum(everything):.1f} s")
        log.say()
    if not options.no_log:
        log.write()


if __name__ == "__main__":
    main()
