#!/usr/bin/env bash
# Arguments for slime's train.py: python train.py "${MINE[@]}" $(examples/slime/args.sh)
set -euo pipefail
REGRADE_URL="${REGRADE_URL:-http://127.0.0.1:8700}"

printf '%s ' \
  --rm-type remote_rm \
  --rm-url "${REGRADE_URL}/adapters/slime?task=essay_writing&run=slime-1&reply=dict&unscored=nan" \
  --reward-key score \
  --dynamic-sampling-filter-path slime.rollout.filter_hub.dynamic_sampling_filters.check_reward_nonzero_std \
  --custom-rollout-log-function-path regrade.adapters.slime.log_rollout
