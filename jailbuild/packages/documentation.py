"""What of a package is for its readers and not for its programs: left out of a box unless it is asked for."""

from __future__ import annotations

import re

# file-hierarchy(7), Debian policy 12, and where the shells look for completions
_PLACES = re.compile(
    r"/usr/(?:local/)?share/(?:"
    r"doc|doc-base|doc-rfc|man|info|lintian|linda|bug|gtk-doc|omf|help|gnome/help|"
    r"bash-completion|zsh/(?:vendor-completions|site-functions)|fish/(?:vendor_completions\.d|completions)|"
    r"locale-langpack|locale/[^/]+/LC_[A-Z]+"  # the C and POSIX locales need no translations
    r")(?:/|$)"
    r"|/etc/bash_completion\.d(?:/|$)"
)
_LOCALE = re.compile(r"/usr/(?:local/)?share/locale/[^/.]+")  # an empty directory; locale.alias is a file


def is_documentation(path: str) -> bool:
    """Say whether a path is of manuals, licences, package checks, completions of shells, or translations."""
    return _PLACES.match(path) is not None or _LOCALE.fullmatch(path) is not None
