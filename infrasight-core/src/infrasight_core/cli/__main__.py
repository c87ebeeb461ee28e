"""`python -m infrasight_core.cli`."""

from infrasight_core.cli import main

main()
