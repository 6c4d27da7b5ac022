"""The promises are kept count of."""

from __future__ import annotations

import re
from pathlib import Path

PROMISES = range(1, 22)


def test_each_sentence_of_the_promise_is_attacked() -> None:
    sources = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    cited = {
        int(number)
        for source in sources
        for numbers in re.findall(r"^@promise\(([\d, ]+)\)$", source, re.MULTILINE)
        for number in numbers.split(",")
    }
    assert cited == set(PROMISES)
