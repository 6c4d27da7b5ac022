#!/bin/sh
# A jail made by hand: the demo that everybody does once, to see what a program needs in order to run.
#
#     sh demo-02-by-hand.sh BOX               make the directory BOX, and open a shell in it
#     sh demo-02-by-hand.sh BOX COMMAND…      make it, and run a command in it
#
# It needs root: chroot(2) is for root alone. demo-02-jailbuild.sh beside this file does the same by jailbuild.
set -eu

box=${1:?name the directory that becomes the box}
shift

# 1. A directory. To the programs inside it will be "/": they have no name for anything that is outside.
mkdir "$box"

# 2. The programs, at the paths that they have outside. $PATH is the same inside, so they are found there as they are
#    here. cp follows links: where bash is a link, the program itself is what arrives.
for program in bash ls; do
    path=$(command -v "$program")
    mkdir -p "$box/$(dirname "$path")"
    cp "$path" "$box/$path"

    # At this point `chroot box bash` says "No such file or directory", though bash is there. What is missing is a file
    # that bash names: its loader.

    # 3. The libraries. ldd lists them, a line each:
    #
    #        linux-vdso.so.1 (0x00007ffd…)                                   from the kernel, no file
    #        libtinfo.so.6 => /lib/x86_64-linux-gnu/libtinfo.so.6 (0x…)      a library, and where it was found
    #        /lib64/ld-linux-x86-64.so.2 (0x…)                               the loader, the path is in the program
    #
    #    Each word that begins with "/" is a file to copy. This takes the loader along. ldd runs the loader on the
    #    program, and on some systems the program too: not for files that you would not run.
    for library in $(ldd "$path" | grep -o '/[^ ]*'); do
        mkdir -p "$box/$(dirname "$library")"
        cp "$library" "$box/$library"
    done
done

# 4. In. chroot(1) makes the directory the root of one process and of its children, and starts the command there.
#    `ls /` lists what this script has copied, and that is all that there is.
#
#    What is not there will be missed: no /etc/passwd (`ls -l` shows numbers for users), no /dev/null, no /proc, and
#    no other program: `cat` is "command not found". And a root process can leave a chroot: it hides the rest of the
#    system, it does not hold anybody.
if [ $# -eq 0 ]; then
    set -- bash
fi
exec chroot "$box" "$@"
