"""`mervn serve`: a local page that answers with the probabilities of a model."""
