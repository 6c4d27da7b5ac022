"""`python -m jailbuild`."""

from jailbuild.cli import main

main()
