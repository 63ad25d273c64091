"""Folds: rows of many slots into float64 accumulators, in order. Windows are computed by them."""
