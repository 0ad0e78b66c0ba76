"""Feature store: features of one layer of one encoder on disk, checked against their inputs."""
