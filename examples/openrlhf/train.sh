#!/usr/bin/env bash
# PPO or GRPO with rewards from Regrade; the other flags are yours to set.
set -euo pipefail
REGRADE_URL="${REGRADE_URL:-http://127.0.0.1:8700}"

python -m openrlhf.cli.train_ppo_ray \
  --reward.remote_url "${REGRADE_URL}/adapters/openrlhf?task=essay_writing&run=openrlhf-1&unscored=nan" \
  --algo.dynamic_filtering_enable \
  --algo.dynamic_filtering_range 0 1 \
  "$@"
