"""Ablation studies: a grid of heads, trained as runs, compared in tables."""
