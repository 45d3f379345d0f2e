"""Plots, drawn without a display."""
