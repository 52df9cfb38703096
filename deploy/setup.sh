#!/bin/sh
# Creates what `docker compose up` needs besides this repository: .env, ./secrets with new keys, the model folder.
# Existing files are kept, so that it can be run again.
set -eu
cd "$(dirname "$0")/.."
umask 077

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# A file of ./secrets, readable by the containers' users; the folder's mode protects it on this host.
secret() {
  if [ ! -e "secrets/$1" ]; then
    printf '%s' "$2" > "secrets/$1"  # no line end: it would become part of a key
    chmod 0444 "secrets/$1"
  fi
}

mkdir -p secrets models
chmod 0700 secrets
if [ ! -e .env ]; then
  sed "s/^HOST_USER=.*/HOST_USER=$(id -u):$(id -g)/" .env.example > .env
fi
secret redis.conf "requirepass $(random)"
redis_url="redis://:$(cut -d' ' -f2 secrets/redis.conf)@redis:6379/0"
secret REGRADE_REWARD_REDIS_URL "$redis_url"
secret REGRADE_META_REDIS_URL "$redis_url"

# The engines ask the services for it, and Prometheus shows it to them.
secret judge_key "$(random)"
secret REGRADE_REWARD_JUDGE_KEY "$(cat secrets/judge_key)"
secret REGRADE_META_META_JUDGE_KEY "$(cat secrets/judge_key)"

# One key per caller of the reward service, so that each can be replaced separately. The meta-reward service's is an
# operator key: its candidate rubrics may hold patterns and schemas.
secret REGRADE_META_REWARD_KEY "$(random)"
secret REGRADE_TRAINER_REWARD_KEY "$(random)"
secret REGRADE_REWARD_API_KEYS "[\"$(cat secrets/REGRADE_TRAINER_REWARD_KEY)\"]"
secret REGRADE_META_OPERATOR_KEYS "[\"$(random)\"]"
secret REGRADE_REWARD_OPERATOR_KEYS "$(sed 's/]$//' secrets/REGRADE_META_OPERATOR_KEYS), \"$(cat secrets/REGRADE_META_REWARD_KEY)\"]"
secret REGRADE_META_API_KEYS "[\"$(random)\"]"
secret grafana_password "$(random)"
echo "keys are in ./secrets; settings in .env. Next: docker compose up -d"
