#!/bin/sh
# The jail of demo-02-by-hand.sh, made by jailbuild.
#
#     sh demo-02-jailbuild.sh BOX               make the directory BOX, and open a shell in it
#     sh demo-02-jailbuild.sh BOX COMMAND…      make it, and run a command in it
set -eu

box=${1:?name the directory that becomes the box}
shift

# 1. to 3. The programs, every library that they need and the loader, found without running anything, with the links
#    that lead to them. With --as-shell this prints the mkdir, cp and ln commands instead, and makes nothing.
jailbuild add bash ls --into "$box"

# Proved: nothing is missing in there. By hand one finds out when a program does not start.
jailbuild check "$box"

# 4. In.
exec jailbuild enter "$box" "$@"
