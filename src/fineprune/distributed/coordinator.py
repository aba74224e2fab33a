"""Short exchanges between all processes of a run: what each holds, and whether one has failed.

They go through the store of torch.distributed, in which the processes found each other, and not through collectives: a message
can then not be mistaken for one of the training if only some ranks take part, and no connection breaks when a rank leaves.
"""

import contextlib
import datetime
import json
from collections.abc import Iterator, Sequence
from typing import Any

from torch import distributed

from ..errors import TrainingError, enumeration

PATIENCE = datetime.timedelta(minutes=30)
"""How long a rank waits for the others: rank 0 may have to write a large file."""


class Coordinator:
    """Exchanges numbers between the ranks of a run. Every rank must make the same calls in the same order.

    Args:
        store: of torch.distributed; None for a process that is alone.
        rank: of this process, from 0.
        size: the number of ranks.
    """

    def __init__(self, store: Any = None, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self._store = store
        self._number = 0 if store is None else store.add(f"fineprune/{rank}", 1)  # the same on all: each makes as many
        self._exchanges = 0

    @classmethod
    def of_all(cls) -> "Coordinator":
        """Returns the coordinator of all processes that torch.distributed knows; every rank calls it."""
        if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
            return cls()
        store = distributed.distributed_c10d._get_default_store()
        return cls(store, distributed.get_rank(), distributed.get_world_size())

    def exchange(self, numbers: Sequence[int]) -> list[list[int]]:
        """Sends numbers to the other ranks, and returns those of all, in the order of the ranks.

        Raises:
            TrainingError: if a rank does not take part within PATIENCE.
        """
        if self.size == 1:
            return [list(numbers)]
        self._exchanges += 1
        keys = [self._key(self._exchanges, rank) for rank in range(self.size)]
        try:
            self._store.set(keys[self.rank], json.dumps(list(numbers)))
            self._store.wait(keys, PATIENCE)
            received = [json.loads(self._store.get(key)) for key in keys]
        except RuntimeError as error:
            raise TrainingError(
                f"{self._missing(keys)} did not come to compare or to save. Either one has died, or not all have called "
                "save(), save_mask(), load() or check_ranks(): every rank calls them, and rank 0 writes."
            ) from error
        if self._exchanges > 1:  # every rank is here, and so has read the numbers of the exchange before
            self._store.delete_key(self._key(self._exchanges - 1, self.rank))
        return received

    def _key(self, exchange: int, rank: int) -> str:
        return f"fineprune/{self._number}/{exchange}/{rank}"

    def _missing(self, keys: Sequence[str]) -> str:
        try:
            return f"Rank {enumeration(str(rank) for rank, key in enumerate(keys) if not self._store.check([key]))}"
        except RuntimeError:
            return "Another rank"

    def unequal(self, numbers: Sequence[int], kind: int = 0) -> list[bool]:
        """Returns for each number whether it differs between ranks that gave the same `kind`."""
        kinds: dict[int, list[list[int]]] = {}
        for kind_of_rank, *of_rank in self.exchange([kind, *numbers]):
            kinds.setdefault(kind_of_rank, []).append(of_rank)
        return [any(len(set(column)) > 1 for column in columns) for columns in zip(*map(_columns, kinds.values()), strict=True)]

    def any(self, answers: Sequence[bool]) -> list[bool]:
        """Returns for each question whether at least one rank answers True."""
        return [any(column) for column in _columns(self.exchange([int(answer) for answer in answers]))]

    @contextlib.contextmanager
    def failing_together(self) -> Iterator[None]:
        """Raises an error on every rank if the block raises one on any: the others would wait for it.

        Raises:
            TrainingError: if another rank has failed, or does not take part.
        """
        try:
            yield
        except Exception:
            self.any([True])
            raise
        if self.any([False]) == [True]:
            raise TrainingError("Another rank failed, and this one stops with it. Read the message of that rank.")


def _columns(rows: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    return list(zip(*rows, strict=True))
