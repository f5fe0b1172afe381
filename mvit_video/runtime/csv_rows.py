"""Rows of CSV that every reader puts back as they were."""

import csv
from typing import Any, TextIO


class CsvRows:
    r"""Writes rows that end in "\n", with quotes around every value that has a line break of any kind.

    `csv.writer` of Python 3.11 and 3.12 leaves a value with "\r" bare unless its own lines end in it, and readers end
    the row there. A file name may have one.

    Args:
        stream: a file opened with `newline=""`, or an io.StringIO.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._writer = csv.writer(self, lineterminator="\r\n")
        self.writerow = self._writer.writerow
        self.writerows = self._writer.writerows

    def write(self, row: str) -> Any:
        """Take a whole row of the csv.writer."""
        return self._stream.write(row.removesuffix("\r\n") + "\n")
