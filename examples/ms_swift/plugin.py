"""Reward functions for ms-swift: `--external_plugins plugin.py`."""

from swift.rewards import AsyncORM, orms

from regrade.adapters.ms_swift import RegradeRewards, RubricVersions


class Regrade(RegradeRewards, AsyncORM):
    """The reward."""


class RegradeVersion(RubricVersions, AsyncORM):
    """The version of the rubric that gave it."""


orms["regrade"] = Regrade
orms["regrade_version"] = RegradeVersion
