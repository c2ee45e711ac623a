"""Stage `train`: SAEs of one variant on one layer, over all learning rates."""
