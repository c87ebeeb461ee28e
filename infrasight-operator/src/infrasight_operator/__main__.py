"""`python -m infrasight_operator`."""

from infrasight_operator.cli import main

main()
