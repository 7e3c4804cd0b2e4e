"""Who am I among how many: started by mpiexec, by torchrun, or alone.

mpi4py finds the other ranks under mpiexec and exchanges the address at which torch.distributed meets; the tensors go
through torch.distributed (NCCL on GPUs, gloo on CPUs). Alone, neither is started. `run_on_all_ranks` wraps a whole
command, so that an error is told once and ends all ranks.
"""

import atexit
import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from command import USER_ERROR_EXIT_CODE, UserError, one_line
from gpu_kernels import refuse_gpu_without_kernels
from guided_diffusion.runs.environment import environment_rank, place
from guided_diffusion.runs.node import index_of_gpu, look, share_of_cores, views_of_node
from guided_diffusion.runs.world import PATIENCE, AgreedError, World
from out_of_memory import full_memory, is_out_of_memory

# On a private mistake (one rank's disk, say) the other ranks hold back, so that one rank's text is printed, not N.
HOLD_BACK_SECONDS = 2.0
LOST_PEER_SECONDS = 5.0
FORWARDING_SECONDS = 0.5  # for the launcher to pass on what was printed: an abort drops the rest


def start(device_setting: str = "auto") -> World:
    """Find the other ranks, choose and set this rank's device, and connect. Raises UserError.

    `device_setting`: "cpu", "cuda", or "auto" (a GPU for each rank where there are GPUs, else the CPU).
    """
    rank, size, launcher = environment_rank()
    if size == 1:
        world = World(launcher=launcher)
        _take_place(world, device_setting)
        return world
    if launcher == "torchrun":
        store = next(dist.rendezvous("env://", rank, size, timeout=PATIENCE))[0]
        world = World(rank, size, *_local_rank(store, rank, size), launcher=launcher, store=store)
    else:
        world, communicator = _mpi_world(size)
        world.store = _meet(world, communicator)
    _take_place(world, device_setting)
    _refuse_mixed_devices(world)
    if world.local_size == world.size and any(name == "lo" for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # works where the host name does not resolve
    on_gpu = world.device.type == "cuda"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=world.store,
        rank=world.rank,
        world_size=world.size,
        timeout=PATIENCE,
        device_id=world.device if on_gpu else None,
    )
    return world


def _local_rank(store: dist.Store, rank: int, size: int) -> tuple[int, int]:
    """This rank's place among those of its node, and their number: as torchrun says, or by the names of the hosts."""
    if "LOCAL_RANK" in os.environ and "LOCAL_WORLD_SIZE" in os.environ:
        return place("LOCAL_RANK", "LOCAL_WORLD_SIZE")
    store.set(f"host of rank {rank}", socket.gethostname())
    hosts = [store.get(f"host of rank {other}") for other in range(size)]
    return hosts[:rank].count(hosts[rank]), hosts.count(hosts[rank])


def _mpi_world(expected: int) -> tuple[World, Any]:
    import mpi4py

    # Look at the library before it starts: one that finds itself under a launcher it does not know ends the process.
    mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
    from mpi4py import MPI  # not at the top: alone, a process neither needs MPI nor may be able to load it

    foreign = "OMPI_COMM_WORLD_SIZE" in os.environ and MPI.get_vendor()[0] != "Open MPI"
    if not foreign and not MPI.Is_initialized():
        MPI.Init_thread()
    communicator = None if foreign else MPI.COMM_WORLD
    seen = communicator.size if communicator else "another launcher's"
    if seen != expected:
        library = MPI.Get_library_version().splitlines()[0].strip("\0 ")
        raise AgreedError(
            f"the launcher started {expected} processes, but for the MPI that mpi4py loaded ({library}) the number is "
            f"{seen}: each would train alone into one folder. Use the mpiexec of that MPI "
            f"({os.path.join(sys.prefix, 'bin', 'mpiexec')}, or `make setup MPI=system` for the cluster's), or torchrun"
        )
    node = communicator.Split_type(MPI.COMM_TYPE_SHARED)
    world = World(communicator.rank, communicator.size, node.rank, node.size, launcher="mpi")
    node.Free()
    return world, communicator


def _meet(world: World, communicator: Any) -> dist.TCPStore:
    """The store through which torch.distributed connects, on a port that the system found free on rank 0."""
    address, port = None, None
    if world.is_main:
        address = "127.0.0.1" if world.local_size == world.size else os.environ.get("MASTER_ADDR", _own_address())
        store = dist.TCPStore(address, 0, world.size, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        port = store.port
    address, port = communicator.bcast((address, port), root=0)
    if not world.is_main:
        store = dist.TCPStore(address, port, world.size, is_master=False, timeout=PATIENCE)
    return store


def _own_address() -> str:
    """The address at which other nodes reach this one: that of the interface which leads outwards."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation; a datagram socket sends nothing here
            return probe.getsockname()[0]
        except OSError:
            return socket.gethostname()


def _take_place(world: World, device_setting: str) -> None:
    """Choose this rank's device and count its cores; every rank must call this. Raises UserError."""
    own = look(use_gpus=device_setting != "cpu")
    if device_setting == "cuda" and not own.gpus:
        raise UserError("device cuda: this machine has no GPU that torch can use; take --device cpu")
    views = views_of_node(own, world.store, world.rank, world.size)
    world.cores = share_of_cores(own, views)
    torch.set_num_threads(min(torch.get_num_threads(), world.cores))
    if own.gpus:
        world.device = torch.device("cuda", index_of_gpu(own, views, world.local_rank))
        refuse_gpu_without_kernels(world.device.index, "--device cpu")
        torch.cuda.set_device(world.device)
        torch.backends.cudnn.benchmark = True  # shapes repeat, in training and in sampling
        torch.backends.cudnn.allow_tf32 = False  # float32 is float32: --precision fp32, and the last convolution


def _refuse_mixed_devices(world: World) -> None:
    """Raise AgreedError, on all ranks, if some have a GPU and others none: tensors could not travel between them."""
    store, own = world.store, world.device.type
    assert store is not None
    store.set(f"device of rank {world.rank}", own)
    kinds = [store.get(f"device of rank {rank}").decode() for rank in range(world.size)]
    if len(set(kinds)) > 1:
        store.set(f"rank {world.rank} knows the devices", "")
        if world.is_main:  # with which the store may go
            store.wait([f"rank {rank} knows the devices" for rank in range(world.size)])
        without = kinds.index("cpu")
        raise AgreedError(
            f"{kinds.count('cuda')} of {world.size} ranks have a GPU, rank {without} has none: start on nodes that are "
            "alike, or add --device cpu"
        )


# --- The wrapper of a command -----------------------------------------------------------------------------------------


def run_on_all_ranks(main: Callable[[Any, set[str]], Any], settings: Any, given: set[str]) -> int:
    """Call `main(settings, given)` and return the exit code (what it returns, or 0); where there are other ranks, all
    end with it instead.

    A mistake of the user is one line from one rank and code 2. A bug of ours is one traceback, and the other ranks are
    ended with it.
    """
    rank, size, launcher = environment_rank()
    try:
        code = main(settings, given) or 0
    except KeyboardInterrupt:
        if rank == 0:
            print("interrupted", file=sys.stderr)
        _end_all(130, size, launcher)
        return 130
    except AgreedError as error:
        if rank == 0:
            print(f"error: {error}", file=sys.stderr, flush=True)
        return _leave(USER_ERROR_EXIT_CODE, size)
    except Exception as error:
        return _fail(error, rank, size, launcher)
    return _leave(code, size)


def _leave(code: int, size: int) -> int:
    """Leave the process group, on all ranks at once, and end this process with `code`; return it when alone.

    The threads of the process group outlive it as long as anything refers to it (a cycle through
    DistributedDataParallel, the last handle of a collective). One that comes back to Python while the interpreter is
    taken down aborts the process: so a rank does everything that a normal exit does but take it down.
    """
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()
    if size == 1:
        return code
    atexit._run_exitfuncs()
    if "mpi4py.MPI" in sys.modules and sys.modules["mpi4py.MPI"].Is_initialized():
        sys.modules["mpi4py.MPI"].Finalize()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _fail(error: Exception, rank: int, size: int, launcher: str) -> int:
    text = full_memory(error) if is_out_of_memory(error) else one_line(error)
    if size > 1:
        # A launcher that ends this rank because another failed must not set off our saving on SIGTERM.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if _is_lost_peer(error):
            time.sleep(LOST_PEER_SECONDS)  # in which a launcher ends this rank; not all start by one
            print(f"rank {rank} of {size}: another rank has ended, and says why", file=sys.stderr, flush=True)
            _end_all(1, size, launcher)
        elif text is not None and rank:
            time.sleep(HOLD_BACK_SECONDS)
    if text is None:
        prefix = f"rank {rank} of {size} failed:\n" if size > 1 else ""
        print(prefix + "".join(traceback.format_exception(error)), file=sys.stderr, end="", flush=True)
    else:
        print(f"error: {text}", file=sys.stderr, flush=True)
    code = 1 if text is None else USER_ERROR_EXIT_CODE
    _end_all(code, size, launcher)
    return code


def _is_lost_peer(error: Exception) -> bool:
    """Whether `error` only says that another rank has gone: that rank tells why."""
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in said for words in ("connection closed by peer", "connection reset by peer", "remote process exited")
    )


def _end_all(code: int, size: int, launcher: str) -> None:
    """End all ranks now, whatever they wait for. Returns only when there are no others."""
    if size == 1:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(FORWARDING_SECONDS)
    if launcher == "mpi" and "mpi4py.MPI" in sys.modules:
        sys.modules["mpi4py.MPI"].COMM_WORLD.Abort(code)
    # torchrun ends the others when one is gone; a normal exit could hang in the clean-up of a collective.
    os._exit(code)
