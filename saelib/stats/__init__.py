"""Statistics of one activation array: outlier severity, spectrum, centers (stage `stats`)."""

from saelib.stats.compute import compute_stats
from saelib.stats.layer_stats import LayerStats, load_arrays, load_stats, save_stats

__all__ = ["LayerStats", "compute_stats", "load_arrays", "load_stats", "save_stats"]
