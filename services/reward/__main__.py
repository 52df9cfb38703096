"""`python -m services.reward`: the server; settings come from options (`--help`) and `REGRADE_REWARD_*`."""

from services.kit.logging import configure_logging
from services.kit.settings import read_settings
from services.kit.web.server import serve
from services.reward.app import create_app
from services.reward.settings import RewardSettings


def main() -> None:
    """Read the settings and serve until SIGTERM or SIGINT."""
    settings = read_settings(RewardSettings)
    configure_logging("reward", settings.log_level)
    serve(create_app(settings), settings)


if __name__ == "__main__":
    main()
