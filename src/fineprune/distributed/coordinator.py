"""All processes of a run, where each must come and tell the others something short: what it holds, or whether it failed.

They meet in the store of torch.distributed, through which the processes found each other. No message of the training can be
taken for one of these where only some ranks ask for a meeting, and no connection is opened that could break when one leaves.
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
    """A place where all ranks of a run come together, as often as they like.

    Args:
        store: of torch.distributed; None for a process that is alone.
        place: the number of this rank, from 0.
        count: how many there are.
    """

    def __init__(self, store: Any = None, place: int = 0, count: int = 1) -> None:
        self.place = place
        self.count = count
        self._store = store
        self._number = 0 if store is None else store.add(f"fineprune/{place}", 1)  # the same on all: each makes as many
        self._round = 0

    @classmethod
    def of_all(cls) -> "Coordinator":
        """Returns the meeting of all processes that torch.distributed knows; every process calls it."""
        if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
            return cls()
        store = distributed.distributed_c10d._get_default_store()
        return cls(store, distributed.get_rank(), distributed.get_world_size())

    def exchange(self, numbers: Sequence[int]) -> list[list[int]]:
        """Tells the others some numbers, and returns those of all, in the order of the ranks.

        Raises:
            TrainingError: if a rank does not come.
        """
        if self.count == 1:
            return [list(numbers)]
        self._round += 1
        keys = [self._key(self._round, rank) for rank in range(self.count)]
        try:
            self._store.set(keys[self.place], json.dumps(list(numbers)))
            self._store.wait(keys, PATIENCE)
            told = [json.loads(self._store.get(key)) for key in keys]
        except RuntimeError as error:
            raise TrainingError(
                f"{self._missing(keys)} did not come to compare or to save. Either one has died, or not all have called "
                "save(), save_mask(), load() or check_ranks(): every rank calls them, and rank 0 writes."
            ) from error
        if self._round > 1:  # all have come here, so all have read what was told before
            self._store.delete_key(self._key(self._round - 1, self.place))
        return told

    def _key(self, round_: int, rank: int) -> str:
        return f"fineprune/{self._number}/{round_}/{rank}"

    def _missing(self, keys: Sequence[str]) -> str:
        try:
            return f"Rank {enumeration(str(rank) for rank, key in enumerate(keys) if not self._store.check([key]))}"
        except RuntimeError:
            return "Another rank"

    def unequal(self, numbers: Sequence[int], kind: int = 0) -> list[bool]:
        """Tells of each number whether ranks that give the same kind give different ones."""
        kinds: dict[int, list[list[int]]] = {}
        for kind_of_rank, *of_rank in self.exchange([kind, *numbers]):
            kinds.setdefault(kind_of_rank, []).append(of_rank)
        return [any(len(set(column)) > 1 for column in columns) for columns in zip(*map(_columns, kinds.values()), strict=True)]

    def any(self, answers: Sequence[bool]) -> list[bool]:
        """Tells of each question whether a rank at least answers yes."""
        return [any(column) for column in _columns(self.exchange([int(answer) for answer in answers]))]

    @contextlib.contextmanager
    def failing_together(self) -> Iterator[None]:
        """Lets all ranks fail where one of them does: the others would wait for it.

        Raises:
            TrainingError: if another rank has failed, or does not come.
        """
        try:
            yield
        except Exception:
            self.any([True])
            raise
        if self.any([False]) == [True]:
            raise TrainingError("Another rank failed, and this one stops with it: its message says why.")


def _columns(rows: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    return list(zip(*rows, strict=True))
