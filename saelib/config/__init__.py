"""The whole configuration: typed (`schema`), read and checked in one place (`load`)."""

from saelib.config.load import load_config
from saelib.config.schema import (
    Config,
    DatasetConfig,
    ExtractionConfig,
    InitDeathConfig,
    ModelConfig,
    ReportConfig,
    StatsConfig,
    TrainConfig,
    VariantConfig,
)
from saelib.config.sources import SourceConfig, WeightsConfig

__all__ = [
    "Config",
    "DatasetConfig",
    "ExtractionConfig",
    "InitDeathConfig",
    "ModelConfig",
    "ReportConfig",
    "SourceConfig",
    "StatsConfig",
    "TrainConfig",
    "VariantConfig",
    "WeightsConfig",
    "load_config",
]
