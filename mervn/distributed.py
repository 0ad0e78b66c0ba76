"""Distributed training: several processes train one model, each on its portion of every batch.

`accelerate launch` starts the processes. Each one holds the whole model. Gradients are summed over
all processes, so the optimizer step equals that of a single process. A process may have an empty
portion of a batch. Gradients are therefore summed once per step, not in hooks of the backward pass
as in DistributedDataParallel.
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
    """The processes that train together.

    This base class stands for a single process, `ProcessGroup` for several.
    """

    process_index = 0
    num_processes = 1

    @property
    def is_main_process(self) -> bool:
        """Tell whether this is rank 0, which writes files and prints."""
        return self.process_index == 0

    def portion(self, items: Sequence[Result]) -> Sequence[Result]:
        """Return this process's portion of a list; each item belongs to exactly one process."""
        return items[self.process_index :: self.num_processes]

    def gather(self, value: Result) -> list[Result]:
        """Return the values of all processes, in the order of their ranks."""
        return [value]

    def any_process(self, flag: bool) -> bool:
        """Tell whether the flag is set in any process."""
        return any(self.gather(flag))

    def on_main_process(self, work: Callable[[], Result]) -> Result:
        """Run a function in the main process; all return its result or raise its error."""
        return work()

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum each parameter's gradients over all processes, in place.

        A parameter that has no gradient in any process keeps none.
        """

    def broadcast_weights(self, module: torch.nn.Module, seed: int) -> None:
        """Copy the weights of the main process to all, and give each process its own dropout."""


SINGLE_PROCESS = Processes()


class ProcessGroup(Processes):
    """Processes joined by torch.distributed. Objects and flags travel over gloo, on the CPU."""

    def __init__(self) -> None:
        self.process_index, self.num_processes = distributed.get_rank(), distributed.get_world_size()
        self.control = distributed.new_group(backend="gloo")
        self.faults = FaultWatch(self.process_index, self.num_processes, self.control)

    def gather(self, value: Result) -> list[Result]:
        """Return the values of all processes, in the order of their ranks."""
        values: list[Any] = [None] * self.num_processes
        distributed.all_gather_object(values, value, self.control)
        return values

    def on_main_process(self, work: Callable[[], Result]) -> Result:
        """Run a function in the main process; all return its result or raise its error."""
        outcome: list[Any] = [None, None]  # result, error
        fault: BaseException | None = None
        if self.is_main_process:
            try:
                outcome[0] = work()
                # fail here, not in the broadcast, where the other processes would wait
                pickle.dumps(outcome[0])
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
        """Sum each parameter's gradients over all processes, in place.

        A parameter that has no gradient in any process keeps none.
        """
        parameters = [parameter for parameter in parameters if parameter.requires_grad]
        # number of processes that have a gradient, by parameter: all must reduce the same list
        counts = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
        distributed.all_reduce(counts, group=self.control)
        gradients = []
        for parameter, count in zip(parameters, counts.tolist(), strict=True):
            if count:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        for chunk in _chunks(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in chunk])
            distributed.all_reduce(flat)
            start = 0
            for gradient in chunk:
                gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
                start += gradient.numel()

    def broadcast_weights(self, module: torch.nn.Module, seed: int) -> None:
        """Copy the weights of the main process to all, and give each process its own dropout."""
        if not self.is_main_process:
            own_seed = seed_sequence(Purpose.PROCESS, seed, self.process_index).generate_state(1)[0]
            seed_torch(next(module.parameters()).device, int(own_seed))
        for tensor in module.state_dict().values():
            distributed.broadcast(tensor, 0)


def _chunks(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Split gradients into lists of one dtype and at most CHUNK entries.

    A gradient that is larger than CHUNK forms a list of its own.
    """
    chunk: list[Tensor] = []
    entries = 0
    for gradient in gradients:
        if chunk and (entries + gradient.numel() > CHUNK or gradient.dtype != chunk[0].dtype):
            yield chunk
            chunk, entries = [], 0
        chunk.append(gradient)
        entries += gradient.numel()
    if chunk:
        yield chunk


@contextmanager
def joined(device: str) -> Iterator[tuple[Processes, torch.device]]:
    """Join the processes that `accelerate launch` started; yield them and this process's device.

    An error in one process ends all of them. UsageError if Accelerate is not installed, or if a
    machine has fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield SINGLE_PROCESS, resolve_device(device, float64=True)
        return
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise UsageError(
            f"training with several processes needs Accelerate ({error}): pip install 'mervn[accelerate]'"
        ) from error
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device must be auto, cpu or cuda if several processes train together, found {device}")
    on_gpus = device != "cpu" and torch.cuda.is_available()
    num_local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if on_gpus and num_local > torch.cuda.device_count():
        raise UsageError(
            f"{num_local} processes on this machine need a GPU each, found "
            f"{torch.cuda.device_count()}: start as many processes as there are GPUs, or use "
            "--device cpu"
        )
    state = PartialState(cpu=not on_gpus)
    group = ProcessGroup()
    try:
        yield group, torch.device("cpu") if state.device.type == "cpu" else state.device
    except BaseException as error:
        cause = group.faults.cause_of(error)
        group.faults.announce(cause)
        # do not destroy the group: that would wait for collective calls that others have started
        if cause is error:
            raise
        raise cause from error
    group.faults.close()
    state.destroy_process_group()
