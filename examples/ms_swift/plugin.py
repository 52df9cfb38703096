"""Reward functions for ms-swift: `--external_plugins plugin.py`."""

from swift.rewards import AsyncORM, orms

from regrade.adapters.ms_swift import RegradeORM, RubricVersionORM


class Regrade(RegradeORM, AsyncORM):
    """The reward."""


class RegradeVersion(RubricVersionORM, AsyncORM):
    """The version of the rubric behind it."""


orms["regrade"] = Regrade
orms["regrade_version"] = RegradeVersion
