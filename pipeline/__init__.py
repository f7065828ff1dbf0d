"""Stages chained: recipe, data, training, runs, reports and the command."""
