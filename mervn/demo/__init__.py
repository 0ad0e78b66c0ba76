"""The demo: a synthetic Vietnamese corpus with known answers, and a check that training finds them."""
