"""A GPU that is not there: CPU tensors that claim to be on `cuda:0`, so that what would fail on a GPU fails here.

    with PretendCuda() as gpu:
        …                       # torch.cuda.is_available() is true, and device="cuda" works
    gpu.traffic                 # copies to and from the device, and waits for it, by the line that caused them

Tensors of different devices in one operation, CPU generators for tensors on the device and `.numpy()` of such tensors raise, as
CUDA would. What is not pretended: kernels, their order of summation, memory, autocast.
"""

import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import torch._dynamo  # now, since it looks at what is replaced below
import torchvision  # noqa: F401
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from tests.gpu.pretended_answers import pretended

aten = torch.ops.aten
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
OURS = f"{Path(__file__).resolve().parents[2]}/cil/"
MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu"

# Operators whose result has a size, or is a number, that the processor must learn from the device.
WAITS = {
    aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten._unique.default, aten.unique_dim.default,
    aten.unique_consecutive.default, aten.bincount.default, aten.equal.default, aten.is_nonzero.default,
    aten.linalg_cholesky.default, aten.linalg_eigh.default, aten._linalg_eigh.default, aten._linalg_svd.default,
    aten._linalg_solve_ex.default, aten.linalg_inv_ex.default, aten.linalg_qr.default, aten.linalg_lstsq.default,
    aten._local_scalar_dense.default,
}  # fmt: skip
COPIES = {aten._to_copy.default, aten.copy_.default, aten.set_.source_Tensor}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default,
            aten._unsafe_index.Tensor}  # fmt: skip


class Event(NamedTuple):
    kind: str  # "to device", "from device" or "wait"
    what: str  # operator
    line: str  # of ours that asked for it


class OnGPU(Tensor):
    """A tensor that says it lies on the device; `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnGPU":
        made = Tensor._make_wrapper_subclass(  # C++ is told `meta`, since it would look for a driver
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device="meta", requires_grad=False,
        )  # fmt: skip
        made.held = held
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    def __repr__(self, **_) -> str:
        return f"OnGPU({self.held!r})"

    def numpy(self, **_) -> None:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
        )

    __array__ = numpy

    def tolist(self) -> list:
        GPU.copied(self, "tolist")
        return self.held.tolist()

    def cpu(self) -> Tensor:
        return self.to(CPU)

    def cuda(self, *_, **__) -> Tensor:
        return self

    def record_stream(self, _: object) -> None:
        pass

    def to(self, *args, **kwargs) -> Tensor:
        """C++ believes that this is `meta`, so that a move to where it is already must end here."""
        where, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
        for value in args:
            if isinstance(value, Tensor):
                where, dtype = value.device, value.dtype
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, str | torch.device):
                where = value
        kwargs |= {} if dtype is None else {"dtype": dtype}
        kwargs.pop("non_blocking", None)
        if where is None or torch.device(where).type == "cuda":
            return super().to(**kwargs) if kwargs else self
        return super().to(where, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return GPU.run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __deepcopy__(self, memo: dict) -> "OnGPU":
        with torch.no_grad():
            twin = OnGPU(self.held.detach().clone())
        twin.requires_grad_(self.requires_grad)
        twin.__dict__.update({key: value for key, value in self.__dict__.items() if key != "held"})
        memo[id(self)] = twin
        return twin

    def __reduce_ex__(self, protocol):
        """A checkpoint of it is read as one of CPU tensors, as `map_location="cpu"` reads one of a GPU."""
        GPU.note("from device", "save")
        return self.held.detach().__reduce_ex__(protocol)


def is_cpu(value: object) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, OnGPU)


class _GPU:
    """What the pretended device does with an operator."""

    def __init__(self) -> None:
        self.traffic: Counter[Event] = Counter()

    def note(self, kind: str, what: object) -> None:
        frame = sys._getframe(1)
        while frame and not frame.f_code.co_filename.startswith(OURS):
            frame = frame.f_back
        place = f"{frame.f_code.co_filename.removeprefix(OURS)}:{frame.f_lineno}" if frame else "outside"
        self.traffic[Event(kind, str(what).removeprefix("aten."), place)] += 1

    def copied(self, source: Tensor, what: object) -> None:
        """The processor waits for a copy unless it goes to the device from pinned memory."""
        self.note("from device" if isinstance(source, OnGPU) else "to device", what)
        if not hasattr(source, "pinned"):
            self.note("wait", what)

    def run(self, func, args: tuple, kwargs: dict):
        flat = tree_leaves((args, kwargs))
        if not any(isinstance(value, OnGPU) for value in flat) and not on_device(kwargs.get("device")):
            return func(*args, **kwargs)
        self.refuse(func, args, kwargs, flat)
        self.count(func, args, kwargs)
        target = kwargs.get("device")
        if target is not None:
            kwargs = {**kwargs, "device": CPU}
        elif func is aten._to_copy.default:
            target = args[0].device
        kwargs.pop("pin_memory", None)
        held = tree_map_only(OnGPU, lambda value: value.held, (args, kwargs))
        with torch.inference_mode(False), torch.no_grad():
            found = func(*held[0], **held[1])
        return self.dressed(found, args, kwargs, here=not (target is not None and not on_device(target)))

    def dressed(self, found, args, kwargs, here: bool):
        """Results as tensors of the device; what an operator changed in place stays the object that it was."""
        known = {id(value.held): value for value in tree_leaves((args, kwargs)) if isinstance(value, OnGPU)}

        def one(value):
            if not isinstance(value, Tensor):
                return value
            if id(value) in known:
                return known[id(value)]
            return OnGPU(value) if here else value

        return tree_map(one, found)

    def refuse(self, func, args, kwargs, flat) -> None:
        """Raise where CUDA would."""
        generator = kwargs.get("generator")
        if isinstance(generator, torch.Generator) and generator.device.type == "cpu":
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({func})")
        if func in COPIES:
            return
        strangers = [value for value in flat if is_cpu(value)]
        if func in INDEXING:  # places may lie on the CPU: they are copied
            strangers = [value for value in strangers if value is args[0] or (len(args) > 2 and value is args[2])]
            strangers = [value for value in strangers if value.dim() or value is args[0]]
        elif torch.Tag.pointwise in func.tags or func in (aten.fill_.Tensor, aten.masked_fill_.Tensor, aten.masked_fill.Tensor):
            changed = func._schema.name.split("::")[1].endswith("_")
            strangers = [value for value in strangers if value.dim() or (changed and value is args[0])]
        if strangers and any(isinstance(value, OnGPU) for value in flat):
            raise RuntimeError(f"{MIXED}! (in {func})")

    def count(self, func, args, kwargs) -> None:
        if func is aten._to_copy.default and "device" in kwargs and kwargs["device"] is not None:
            comes, goes = isinstance(args[0], OnGPU), on_device(kwargs["device"])
            if comes != goes:
                self.copied(args[0], func)
        elif func is aten.copy_.default and is_cpu(args[0]) != is_cpu(args[1]):
            self.copied(args[1], func)
        elif func in INDEXING:
            places = [place for place in args[1] if place is not None]
            if any(place.dtype in (torch.bool, torch.uint8) for place in places):
                self.note("wait", func)
            for place in places:
                if is_cpu(place):
                    self.copied(place, func)
        elif func in WAITS or (func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None):
            self.note("wait", func)


GPU = _GPU()


def on_device(device: object) -> bool:
    """C++ says `meta` where it asks for the device of a tensor that is there."""
    return device is not None and (isinstance(device, int) or torch.device(device).type in ("cuda", "meta"))


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return GPU.run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Calls whose C++ would look for a driver before any operator is asked."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and on_device(kwargs.get("device")):
            del kwargs["device"]
            return func(*args, **kwargs).to(CUDA)
        if func is Tensor.to:  # without a number C++ asks the driver for it
            args = tuple(CUDA if isinstance(value, str | torch.device) and on_device(value) else value for value in args)
            kwargs |= {"device": CUDA} if on_device(kwargs.get("device")) else {}
        if func is Tensor.pin_memory:
            pinned = args[0].detach()
            pinned.pinned = True
            return pinned
        if func is Tensor.is_pinned:
            return hasattr(args[0], "pinned")
        if func is Tensor.new_tensor and isinstance(args[0], OnGPU):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(CUDA)
        return func(*args, **kwargs)


class PretendCuda:
    """Within it torch has a GPU, and `traffic` counts what goes between it and the processor."""

    def __enter__(self) -> "PretendCuda":
        self._stack = ExitStack()
        for path, answer in pretended().items():
            self._stack.enter_context(mock.patch(f"torch.{path}", answer))
        self._stack.enter_context(_Functions())
        self._stack.enter_context(_Dispatch())
        GPU.traffic.clear()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def traffic(self) -> Counter[Event]:
        return GPU.traffic
