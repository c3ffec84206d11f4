"""`python -m kerasdl_apps` is the `kerasdl` command."""

from kerasdl_apps.cli import main

main()
