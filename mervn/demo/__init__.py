"""The demo: a Vietnamese corpus with known answers, made on the spot, and what the toolkit must find in it."""
