"""Evaluators: train one child, return its score and reward."""
