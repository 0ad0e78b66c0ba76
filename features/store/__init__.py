"""Feature store: the features of one layer of one encoder on disk, with checks that they match their inputs."""
