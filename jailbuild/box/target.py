"""What a box should become: some requests resolved in the source root, the others as they are; as a plan."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

from jailbuild.box.deciding import make_plan
from jailbuild.box.drafting import draft
from jailbuild.box.manifest import Label, Manifest, RecordedRequest
from jailbuild.box.ownership import standing_in
from jailbuild.box.plan import Plan, Source
from jailbuild.box.retain import retain
from jailbuild.box.verify import verify_plan
from jailbuild.closure.commands import RULES, Request, find_program, source_root
from jailbuild.closure.gather import Closure, gather
from jailbuild.closure.gathering import Knowledge, Options
from jailbuild.closure.trees import Rules, Tree, identity, lay_over
from jailbuild.root import Root

if TYPE_CHECKING:
    from jailbuild.closure.catalog import RecipeCatalog


class Target(NamedTuple):
    """The box that a plan is for, as it is now."""

    box: str  # as the user calls it
    there: Root | None  # None if there is nothing yet
    before: Manifest | None
    label: Label  # of the source root
    source: str | None  # its path on the host

    def names(self) -> Collection[str]:
        """Return the names of the requests that the box has."""
        return self.before.requests.keys() if self.before is not None else ()


class PlanOptions(NamedTuple):
    """How the user wants a plan made."""

    options: Options = Options()
    keep_privileges: bool = False
    replace: tuple[str, ...] = ()  # paths of the user's that may go
    catalog: RecipeCatalog | None = None  # the recipes that may apply
    allowed: Collection[str] = ()  # paths of secrets that may go in

    def find(self, root: Root, word: str) -> Request:
        """Find the program that a word means (JailError), also where a recipe says that such a command stands."""
        if self.catalog is None:
            return find_program(root, word, self.options.search_path)
        from jailbuild.closure.catalog import find_named  # not for --bare

        return find_named(root, word, self.options.search_path, self.catalog)


class ResolveSet(NamedTuple):
    """What is to be resolved in the source root: requests, how they will be remembered, and the data among them.

    Rules are remembered too, and nothing is resolved for them.
    """

    requests: tuple[Request, ...] = ()
    asked: Mapping[str, RecordedRequest] = {}
    trees: Mapping[str, Tree] = {}  # by the name of the request
    flags: Mapping[str, frozenset[str]] = {}  # likewise, of packages


class Change(NamedTuple):
    """A plan to change a box, and what it was made from."""

    plan: Plan
    closure: Closure
    source: Root

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of it."""
        of_paths = self.plan.draft.notes
        written = [of_paths[action.entry.path] for action in self.plan.changes if action.entry.path in of_paths]
        return *self.closure.notes, *written, *self.plan.notes

    def host_path(self, path: str) -> str:
        """Return where on the host the file comes from that the plan puts at `path`."""
        source = self.closure.source_of(path)
        return self.source.host_path(path) if source == path else source


class OthersDecideError(Exception):
    """What is to come cannot stand beside what the box has for others: all must be planned anew."""

    def __init__(self, is_own: bool) -> None:
        super().__init__()
        self.is_own = is_own  # whether it is the user who named something else, and not the source root that changed


def plan_change(
    root: Root,
    target: Target,
    wanted: ResolveSet,
    carried: Collection[str],
    choices: PlanOptions,
    *,
    spare: bool = False,
    others_decide: bool = False,
) -> Change:
    """Plan a box that has what is wanted, resolved in the source root, and beside it the requests named in `carried`.

    OthersDecideError, if `others_decide`, where the source root has another file now for something that the carried
    ones want: then they cannot stay as they are. JailError; nothing is written.
    """
    kept = retain(target.before, carried, target.label, target.there)
    apart = standing_in(root, kept.entries, kept.own)
    source = source_root(lay_over(root, wanted.trees.values()), wanted.requests)
    options = choices.options._replace(dlopen={name: asked.dlopen for name, asked in wanted.asked.items()})
    closure = gather(source, wanted.requests, options, wanted.trees, _knowledge(target, wanted, choices, apart))
    drafted = draft(closure, target.label, target.source, wanted.asked, kept, choices.keep_privileges)
    digests = Source(source)
    if others_decide and target.before is not None:
        for path, entry in drafted.entries.items():
            listed = kept.entries.get(path)
            if listed is not None and path not in drafted.carried and digests.differs(entry, listed, drafted.made):
                raise OthersDecideError(path in drafted.own)
    plan = make_plan(drafted, digests, target.before, target.there, replace=choices.replace, spare=spare)
    if not plan.conflicts:
        verify_plan(plan, closure, target.there, anew=not others_decide)
    return Change(plan, closure, source)


def _knowledge(target: Target, wanted: ResolveSet, choices: PlanOptions, apart: frozenset[str]) -> Knowledge:
    """Return which recipes may apply to what is wanted."""
    own = frozenset({identity(os.fstat(target.there.descriptor))}) if target.there is not None else frozenset()
    without = {
        name: frozenset(asked.without)
        for name, asked in wanted.asked.items()
        if not asked.bare and asked.type not in RULES
    }
    return Knowledge(choices.catalog, without, Rules(own, choices.allowed), apart)
