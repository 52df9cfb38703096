#!/usr/bin/env bash
# Arguments for miles' train.py: python train.py "${MINE[@]}" $(examples/miles/args.sh)
set -euo pipefail
REGRADE_URL="${REGRADE_URL:-http://127.0.0.1:8700}"

printf '%s ' \
  --rm-type remote_rm \
  --rm-url "${REGRADE_URL}/adapters/slime?task=essay_writing&run=miles-1&reply=dict&hold_s=285" \
  --reward-key score
