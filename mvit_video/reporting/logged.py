"""What a run logged, as columns of numbers: the records of a long run are more than a process should hold."""

from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from mvit_video.engine.curves import Record

_NO_QUANTITIES = ("step", "time", "epoch")


class Logged:
    """The numbers of some records, 16 bytes each.

    Counts are left out, and failures as long as there are none.

    Args:
        records: as `tracking.each_record` gives them, gone through once.

    Attributes:
        quantities: (kind, name) of the numbers, in the order in which they first came.
        validated: all names in the records of validations, whatever their values.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._columns: dict[tuple[str, str], tuple[array[float], array[float]]] = {}
        quantities: dict[tuple[str, str], None] = {}
        validated: set[str] = set()
        for record in records:
            kind, step = str(record.get("kind")), record["step"]
            assert isinstance(step, int | float), record
            if kind == "eval":
                validated.update(record)
            for name, value in record.items():
                if name in _NO_QUANTITIES or isinstance(value, bool) or not isinstance(value, int | float):
                    continue
                if name.startswith("num_"):
                    continue
                steps, values = self._columns.setdefault((kind, name), (array("d"), array("d")))
                steps.append(step)
                values.append(value)
                if value or not name.startswith("failed_"):
                    quantities.setdefault((kind, name))
        self.quantities = tuple(quantities)
        self.validated = frozenset(validated)

    def series(self, key: tuple[str, str]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Steps and values of a (kind, name); empty where it was not logged."""
        steps, values = self._columns.get(key, (array("d"), array("d")))
        return np.array(steps), np.array(values)
