"""On which device and in which precision networks run in a loop, decided in one place.

Entries: `choose_compute`, and `Compute.for_network`. Proofs, range searches and everything that is compared with ONNX
Runtime stay in float32 and do not come here. The figures behind the choices: docs/speed.md.

What is random is drawn on the CPU, so that samples and batches start the same on every device. One thing is not: the
masks of dropped values, as large as the activations, come from a generator of the device that is seeded here.
"""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import platform
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgeq.core.errors import DeviceError
from edgeq.teacher.converters import CONVERSION_FAULTS
from edgeq.teacher.replay import CudaRecorder, Recorder
from edgeq.teacher.world import ALONE, World, is_launched, join, local_rank

_LOG = logging.getLogger(__name__)

CPU = torch.device("cpu")

# Compute capability from which a GPU multiplies bfloat16; older ones emulate it.
_BFLOAT16 = (8, 0)

# Names of malloc.h for `mallopt`.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """How networks run forward, and so backward.

    Attributes:
        half: bfloat16 in convolutions and matrix products (by autocast). Losses and statistics are summed in float32,
            and parameters, pixels and optimiser states stay float32.
        device: where they run.
        world: the processes that share the work.
    """

    half: bool = False
    device: torch.device = CPU
    world: World = ALONE

    @property
    def name(self) -> str:
        """Return what the device is called: "cpu", or the model of the GPU."""
        is_gpu = self.device.type == "cuda"
        return torch.cuda.get_device_name(self.device) if is_gpu else self.device.type

    def describe(self) -> str:
        """Return the device, and what is computed on it in which precision, in words."""
        precision = "bfloat16" if self.half else "float32"
        place = "" if self.device.type == "cpu" else f" ({self.device})"
        count = "" if self.world.size == 1 else f"{self.world.size} processes, each on "
        return f"{count}{self.name}{place}, synthesis in {precision}, training in float32"

    def peak_mb(self) -> float:
        """Return the most that tensors have taken on the GPU, in 2^20 bytes; 0 on the CPU."""
        if self.device.type != "cuda":
            return 0.0
        return torch.cuda.max_memory_allocated(self.device) / 2**20

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which networks run forward."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.half else nullcontext()

    def recorder(self) -> Recorder | None:
        """Return what records steps of a loop; None where they run as they are.

        Processes that share a batch wait for each other inside a step, so they record nothing.
        """
        if self.device.type != "cuda" or self.world.size > 1:
            return None
        return CudaRecorder(self.device)

    def generator(self, seed: int) -> torch.Generator:
        """Return a source of random numbers on the device where it has one, else on the CPU."""
        place = self.device if self.device.type == "cuda" else CPU
        return torch.Generator(place).manual_seed(seed)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Let loops run inside the block.

        On the CPU the process keeps what one step frees for the next one. On a GPU cuDNN takes algorithms that add in
        one order only, and multiplies convolutions of float32 in TF32 as PyTorch's own default has it; products of
        matrices stay in full float32.

        Raises:
            DeviceError: if the GPU has no memory left.
        """
        if self.device.type != "cuda":
            _keep_freed_memory()
            yield
            return
        flags = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=True
        )
        try:
            with torch.cuda.device(self.device), flags:
                yield
        except torch.cuda.OutOfMemoryError as error:
            raise DeviceError(
                f"{self.name} ({self.device}) has no memory left: {str(error).partition('.')[0]}",
                why="a batch's activations and the whole sample set lie on the GPU",
                mend="pass a smaller --set training.batch (or synthesis.batch, reconstruction.batch), or --device cpu",
            ) from error

    def for_network(self, module: nn.Module, inputs: Sequence[Tensor]) -> Compute:
        """Return how to run this network: as `self` says, or in float32 where bfloat16 does not carry it.

        A network that has float16 or float64 inside keeps its types. Any other is run once, forward and backward: an
        operator may have no kernel for bfloat16, or refuse to mix it with float32.

        Args:
            module: returns a tuple of tensors.
            inputs: one tensor [N, ...] an input; a sample or two are enough.
        """
        if not self.half:
            return self
        held = (*module.parameters(), *module.buffers())
        if {x.dtype for x in held if x.is_floating_point()} - {torch.float32}:
            return dataclasses.replace(self, half=False)
        placed = [item.detach().to(self.device) for item in inputs]
        shown = [item.requires_grad_(item.is_floating_point()) for item in placed]
        try:
            with self.autocast():
                outputs = module(*shown)
            values = [item.float().sum() for item in outputs if item.requires_grad]
            if values:
                torch.autograd.grad(torch.stack(values).sum(), shown, allow_unused=True)
            if all(item.isfinite().all() for item in outputs):
                return self
            reason = "its values are not finite there"
        except CONVERSION_FAULTS as error:
            reason = str(error).partition("\n")[0]
        _LOG.info("the network runs in float32, not in bfloat16: %s", reason)
        return dataclasses.replace(self, half=False)

    def to_dict(self) -> dict[str, object]:
        """Return what results depend on: not which of two equal GPUs it is, nor which process."""
        return {"half": self.half, "device": self.name, "processes": self.world.size}


PLAIN = Compute()


def make_adam(moved: Sequence[Any], **figures: Any) -> torch.optim.Adam:
    """Return Adam over tensors, or parameter groups; by the kernel that reads each value once where there is one."""
    groups = [item["params"] if isinstance(item, dict) else [item] for item in moved]
    places = {tensor.device.type for tensors in groups for tensor in tensors}
    return torch.optim.Adam(moved, fused=places <= {"cpu", "cuda"}, **figures)


def make_replayed_adam(groups: Sequence[dict[str, Any]], **figures: Any) -> torch.optim.Adam:
    """Return Adam over parameter groups whose steps can be recorded: rates are tensors beside the parameters."""
    device = next(tensor.device for group in groups for tensor in group["params"])
    placed = [{**group, "lr": torch.tensor(float(group["lr"]), device=device)} for group in groups]
    return make_adam(placed, capturable=True, **figures)


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set the learning rate of a group of an optimiser."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def choose_compute(device: str = "cpu") -> Compute:
    """Return how this machine computes fastest on `device`.

    bfloat16 where the processor multiplies it (AVX512_BF16 or AMX; compute capability 8.0); elsewhere it is emulated,
    slower than float32. Tensors stay contiguous: oneDNN reorders inside, and channels last measured slower.

    Args:
        device: "cpu", "cuda", "cuda:N", or "auto": a GPU if torch sees one.

    Under torchrun every process has a GPU of its own, and the processes are brought together here.

    Raises:
        DeviceError: if that GPU is not there.
        MissingDependencyError: see `world.join`.
    """
    place = _choose_device(device)
    if place.type == "cuda":
        half = torch.cuda.get_device_capability(place) >= _BFLOAT16
    else:  # absent in torch 2.4
        questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        half = any(getattr(torch.cpu, name, lambda: False)() for name in questions)
    return Compute(half=half, device=place, world=join(place))


def _keep_freed_memory() -> None:
    """Let glibc keep up to 512 MB that were freed, and hand out blocks of up to 32 MB from them.

    By itself it gives the end of the heap back after every few tensors; the next step then waits for fresh pages, a
    sixth of the time of a step of reconstruction. Other libraries of C are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(_MMAP_THRESHOLD, 32 << 20)
    library.mallopt(_TRIM_THRESHOLD, 512 << 20)


def _choose_device(name: str) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return CPU
    if not torch.cuda.is_available():
        found = "no GPU or no driver was found"
        if torch.version.cuda is None:
            found = f"torch {torch.__version__} was built without CUDA"
        raise DeviceError(
            f"--device {name}: torch has no CUDA device",
            why=found,
            mend="pass --device cpu; `edgeq doctor` tells what torch sees, and pytorch.org how to install it with CUDA",
        )
    wanted, count = name.partition(":")[2], torch.cuda.device_count()
    index = int(wanted or local_rank())
    if is_launched() and (wanted or index >= count):
        raise DeviceError(
            f"--device {name} for several processes, of which this is number {local_rank()} of its machine",
            why=f"each has a GPU of its own, and torch sees {count}",
            mend=f"pass --device cuda, and to torchrun --nproc-per-node {count} or fewer",
        )
    if index >= count:
        raise DeviceError(
            f"--device {name}: there is no GPU {index}",
            why=f"torch sees {count}, counted from 0 (CUDA_VISIBLE_DEVICES may hide some)",
            mend=f"pass --device cuda:{count - 1}, or --device auto",
        )
    return torch.device("cuda", index)
