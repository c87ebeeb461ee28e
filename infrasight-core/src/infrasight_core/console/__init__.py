"""What all commands of the project share: start and end, standard streams, common options."""
