"""The feature store: one encoder's sequences of one layer on disk, never stale and never half written."""
