"""The Hydra tree, shipped as package data."""
