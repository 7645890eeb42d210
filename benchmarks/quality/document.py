"""Regions of a Markdown file that are written by a program; what people wrote around them stays as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping


def with_regions(text: str, regions: Mapping[str, str]) -> str:
    """`text` with the content of each named region replaced. ValueError where a region's two markers are not there
    exactly once, in their order.
    """
    for name, content in regions.items():
        opening, closing = markers(name)
        if text.count(opening) != 1 or text.count(closing) != 1 or text.index(opening) > text.index(closing):
            raise ValueError(f"the document needs the lines {opening} and {closing}, once each and in this order")
        pattern = re.escape(opening) + ".*?" + re.escape(closing)
        replaced = f"{opening}\n{content.strip()}\n{closing}"
        text = re.sub(pattern, lambda _, replaced=replaced: replaced, text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def markers(name: str) -> tuple[str, str]:
    """The lines between which the region stands."""
    return f"<!-- quality:{name} -->", f"<!-- /quality:{name} -->"
