"""Fine-tuning: encoders and head trained end to end."""
