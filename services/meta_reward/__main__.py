"""`python -m services.meta_reward`: serve it; options (`--help`) or variables `REGRADE_META_*` configure it."""

from services.kit.logging import configure_logging
from services.kit.settings import read_settings
from services.kit.web.server import serve
from services.meta_reward.app import create_app
from services.meta_reward.settings import MetaRewardSettings


def main() -> None:
    """Read the settings and serve until SIGTERM or SIGINT."""
    settings = read_settings(MetaRewardSettings)
    configure_logging("meta_reward", settings.log_level)
    serve(create_app(settings), settings)


if __name__ == "__main__":
    main()
