"""Stage two: fusion heads trained on cached sequences, their evaluation and the demo."""
