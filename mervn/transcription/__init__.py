"""`mervn transcribe`: transcripts by speech recognition, and word error rates."""
