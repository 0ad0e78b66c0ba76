"""Training encoders and head end to end."""
