"""The demo: a synthetic Vietnamese corpus, and a check that training finds its known answers."""
