#!/usr/bin/env bash
# GRPO with rewards from Regrade; the other arguments are yours.
set -euo pipefail
export REGRADE_URL="${REGRADE_URL:-http://127.0.0.1:8700}" REGRADE_TASK=essay_writing REGRADE_RUN=swift-1

swift rlhf --rlhf_type grpo \
  --external_plugins "$(dirname "$0")/plugin.py" \
  --reward_funcs regrade regrade_version --reward_weights 1 0 \
  "$@"
