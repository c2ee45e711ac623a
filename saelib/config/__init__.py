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
)
from saelib.config.sources import SourceConfig, WeightsConfig
from saelib.config.training import TrainConfig, VariantConfig

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
