#!/usr/bin/env bash
# GRPO with rewards from Regrade; the other settings are yours.
set -euo pipefail
export REGRADE_URL="${REGRADE_URL:-http://127.0.0.1:8700}" REGRADE_TASK=essay_writing REGRADE_RUN=verl-1

python -m verl.trainer.main_ppo \
  algorithm.adv_estimator=grpo \
  data.train_files=essays.parquet data.val_files=essays.parquet \
  reward.custom_reward_function.path=pkg://regrade.adapters.verl \
  reward.custom_reward_function.name=compute_score \
  "$@"
