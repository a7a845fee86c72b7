"""Run scaling-law experiments, fit and compare power laws, draw the figures."""
