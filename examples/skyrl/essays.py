"""A SkyRL text environment with rewards from Regrade."""

from skyrl_gym.envs.base_text_env import BaseTextEnv
from skyrl_gym.envs.registration import register

from regrade.adapters.skyrl import RegradeEnv


class Essays(RegradeEnv, BaseTextEnv):
    """Configured by REGRADE_TASK, REGRADE_RUN, REGRADE_URL, or by the environment's configuration."""


register(id="essays", entry_point=Essays)

if __name__ == "__main__":
    import skyrl_gym

    environment = skyrl_gym.make("essays", env_config={"task": "essay_writing", "run": "skyrl-1"}, extras={})
    environment.init([{"role": "user", "content": "Write a short essay on why towns need trees."}])
    output = environment.step("Trees cool a street. They also keep water in the ground, and so spare the drains.")
    assert 0.0 <= output["reward"] <= 1.0
