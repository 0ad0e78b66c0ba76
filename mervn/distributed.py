"""Distributed training: processes that train one model on portions of each batch.

`accelerate launch` starts them. Every process has the whole model and a portion of each global batch. Gradients of sums
are added up, so that the step is the one that a single process would take. A process may have an empty portion of a
batch, so gradients are summed once per step, and not in hooks of the backward pass as in DistributedDataParallel.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from features.device import resolve_device
from features.errors import UsageError
from features.random_streams import Purpose, seed_sequence
from features.torch_seed import seed_torch
from mervn.fault_watch import FaultWatch, portable

Result = TypeVar("Result")
CHUNK = 1 << 24
"""Gradient entries per all-reduce: 64 MiB in fp32."""


class Processes:
    """The processes that train together; this class is a single one."""

    process_index = 0
    num_processes = 1

    @property
    def is_main_process(self) -> bool:
        """Tell whether this is rank 0, which writes files and prints."""
        return self.process_index == 0

    def portion(self, things: Sequence[Result]) -> Sequence[Result]:
        """Return this process's items of a list; each item belongs to one process."""
        return things[self.process_index :: self.num_processes]

    def gather(self, thing: Result) -> list[Result]:
        """Return the values of all processes, in the order of their ranks."""
        return [thing]

    def any_process(self, flag: bool) -> bool:
        """Tell whether the flag is set in any process."""
        return any(self.gather(flag))

    def on_main_process(self, work: Callable[[], Result]) -> Result:
        """Run a function in the main process; all processes return its result or raise its error."""
        return work()

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum each parameter's gradients over all processes; one without a gradient anywhere keeps none."""

    def broadcast_weights(self, module: torch.nn.Module, seed: int) -> None:
        """Copy the weights of the main process to all, and give each process its own dropout."""


SINGLE_PROCESS = Processes()


class ProcessGroup(Processes):
    """Processes joined by torch.distributed; what is not a gradient travels over gloo, from and to the CPU."""

    def __init__(self) -> None:
        self.process_index, self.num_processes = distributed.get_rank(), distributed.get_world_size()
        self.control = distributed.new_group(backend="gloo")
        self.faults = FaultWatch(self.process_index, self.num_processes, self.control)

    def gather(self, thing: Result) -> list[Result]:
        """Return the values of all processes, in the order of their ranks."""
        found: list[Any] = [None] * self.num_processes
        distributed.all_gather_object(found, thing, self.control)
        return found

    def on_main_process(self, work: Callable[[], Result]) -> Result:
        """Run a function in the main process; all processes return its result or raise its error."""
        outcome: list[Any] = [None, None]
        fault: BaseException | None = None
        if self.is_main_process:
            try:
                outcome[0] = work()
                pickle.dumps(outcome[0])  # fails here and not in the broadcast, for which the others wait
            except BaseException as error:
                fault = error
                outcome = [None, portable(error)]
        distributed.broadcast_object_list(outcome, 0, self.control)
        if fault is not None:
            raise fault
        if outcome[1] is not None:
            raise outcome[1]
        result: Result = outcome[0]
        return result

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum each parameter's gradients over all processes; one without a gradient anywhere keeps none."""
        parameters = [parameter for parameter in parameters if parameter.requires_grad]
        there = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
        distributed.all_reduce(there, group=self.control)
        moved = [parameter for parameter, count in zip(parameters, there.tolist(), strict=True) if count]
        for parameter in moved:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for some in _chunks([parameter.grad for parameter in moved if parameter.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in some])
            distributed.all_reduce(flat)
            for gradient, summed in zip(some, flat.split([g.numel() for g in some]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def broadcast_weights(self, module: torch.nn.Module, seed: int) -> None:
        """Copy the weights of the main process to all, and give each process its own dropout."""
        if not self.is_main_process:
            own = int(seed_sequence(Purpose.PROCESS, seed, self.process_index).generate_state(1)[0])
            seed_torch(next(module.parameters()).device, own)
        for tensor in module.state_dict().values():
            distributed.broadcast(tensor, 0)


def _chunks(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut gradients of one dtype into lists of about CHUNK entries."""
    some: list[Tensor] = []
    for gradient in gradients:
        if some and (sum(g.numel() for g in some) + gradient.numel() > CHUNK or gradient.dtype != some[0].dtype):
            yield some
            some = []
        some.append(gradient)
    if some:
        yield some


@contextmanager
def joined(device: str) -> Iterator[tuple[Processes, torch.device]]:
    """Join the processes that `accelerate launch` started, and yield them and this one's device.

    An error in one process ends all of them. UsageError where Accelerate is not installed, or where a single GPU is
    named for several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield SINGLE_PROCESS, resolve_device(device, float64=True)
        return
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise UsageError(f"several processes need Accelerate ({error}): pip install 'mervn[accelerate]'") from error
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device of several processes must be auto, cpu or cuda, found {device}")
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    group = ProcessGroup()
    try:
        yield group, torch.device("cpu") if state.device.type == "cpu" else state.device
    except BaseException as error:
        group.faults.announce(error)
        raise  # without leaving the group: that would wait for what the others have begun
    group.faults.close()
    state.destroy_process_group()
