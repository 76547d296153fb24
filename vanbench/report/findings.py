"""What a folder of kept results says of its tables: the findings in its README.md, a line of a table each.

`| [experiment](link) ([table](machine/name.csv), ...) | finding |`, in Markdown.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Finding", "findings"]


class Finding(NamedTuple):
    """text: Markdown, its links relative to the README. experiment: the linked file's name without suffix, or empty.

    tables: (machine, name) of each CSV that it follows from.
    """

    text: str
    experiment: str
    tables: tuple[tuple[str, str], ...]

    @property
    def plain(self) -> str:
        """The text without links and marks."""
        return re.sub(r"[`*]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", self.text)).replace("\\|", "|")


def findings(text: str) -> list[Finding]:
    """Those of a README, in order: every line of two cells that names a table or an experiment."""
    found = []
    for line in text.splitlines():
        parts = [each.strip() for each in re.split(r"(?<!\\)\|", line)]
        if len(parts) != 4 or parts[0] or parts[3]:
            continue
        tables = re.findall(r"\(([^()/]+)/([^()/]+)\.csv\)", parts[1])
        experiment = re.search(r"/experiments/([^()/]+)\.\w+\)", parts[1])
        if tables or experiment:
            found.append(Finding(parts[2], experiment[1] if experiment else "", tuple(tables)))
    return found
