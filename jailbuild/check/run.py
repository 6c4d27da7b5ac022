"""All rules, held against one root."""

from __future__ import annotations

from jailbuild.box.manifest import read_manifest
from jailbuild.check.contents import content_findings
from jailbuild.check.findings import Finding, Report, sort
from jailbuild.check.links import link_findings
from jailbuild.check.programs import ProgramRules
from jailbuild.check.tree import read_tree
from jailbuild.root import Root


def check_root(root: Root, name: str) -> Report:
    """Check a box, or any root, that the user calls `name` (JailError if its manifest cannot be believed)."""
    manifest = read_manifest(root, name)
    tree = read_tree(root)
    rules = ProgramRules(root, tree, manifest, name)
    findings: list[Finding] = [*tree.unreadable, *rules.findings(), *link_findings(root, tree, manifest, name)]
    if manifest is not None:
        findings += content_findings(root, tree, manifest, name)
    return Report(sort(findings), rules.count, len(tree.files))
