"""The head and its parts: fusion, pooling, losses, and the models built of them."""
