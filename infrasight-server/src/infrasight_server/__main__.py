"""`python -m infrasight_server`."""

from infrasight_server.cli import main

main()
