"""Scores of images: faces found and recognised, image quality, distances to the originals.

One file per metric; `cloakbench.score.base.metrics` finds them.
"""
