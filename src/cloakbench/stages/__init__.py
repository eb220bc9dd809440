"""Stages that run a model, a module each: read folders, run a method, write one folder."""
