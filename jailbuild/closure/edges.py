"""Why something is in a closure that no loader asked for: a recipe, a user or a locale that was asked for."""

from __future__ import annotations

from typing import NamedTuple

from jailbuild.loader.model import Edge


class NamedEdge(NamedTuple):
    """Who leads to something ("" for the request itself), and what of the request or of the recipes it is for."""

    by: str
    how: str  # "recipe", "user" or "locale"
    recipe: str = ""  # that brings it
    through: tuple[str, ...] = ()  # the recipes that bring that one, the outermost first
    cause: str = ""  # why the outermost applies: "program git", "imports getpwuid", a SONAME
    names: tuple[str, ...] = ()  # of locales; of users or groups, of a table that has lines for them

    @property
    def text(self) -> str:
        """The recipe in words, with those that it comes by and why."""
        words = f"{self.how} {' > '.join((*self.through, self.recipe))}" if self.recipe else self.how
        return f"{words}: {self.cause}" if self.cause else words

    def inner(self, recipe: str) -> NamedEdge:
        """Return the edge to what a recipe brings that this one's brings."""
        return self._replace(recipe=recipe, through=(*self.through, self.recipe))


AnyEdge = Edge | NamedEdge
