"""The whole configuration: typed (`schema`), read and checked in one place (`load`)."""

from saelib.config.datasets import DatasetConfig
from saelib.config.files import FilesConfig
from saelib.config.load import load_config
from saelib.config.schema import (
    Config,
    ExtractionConfig,
    InitDeathConfig,
    ModelConfig,
    StatsConfig,
)
from saelib.config.sources import SourceConfig
from saelib.config.training import TrainConfig, VariantConfig

__all__ = [
    "Config",
    "DatasetConfig",
    "ExtractionConfig",
    "FilesConfig",
    "InitDeathConfig",
    "ModelConfig",
    "SourceConfig",
    "StatsConfig",
    "TrainConfig",
    "VariantConfig",
    "load_config",
]
