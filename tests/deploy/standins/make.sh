#!/bin/sh
# For a machine with a Docker engine and package registries, but no registry of images: what Compose would pull, made of
# Debian's packages and a wheel under the same names. As root; needs debootstrap. Grafana has no stand-in.
set -eu
cd "$(dirname "$0")"
docker=${DOCKER:-docker}
suite=bookworm
base=$(mktemp -d)
trap 'rm -rf "$base"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates "$suite" "$base"
# What this machine trusts, so that pip and apt do within a build.
cp /etc/ssl/certs/ca-certificates.crt "$base/etc/ssl/certs/ca-certificates.crt"
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' > "$base/etc/pip.conf"
rm -rf "$base"/var/cache/apt/archives/*.deb "$base"/var/lib/apt/lists/*
tar -C "$base" -c . | "$docker" import - python:3.11.13-slim-bookworm
export DOCKER_BUILDKIT=1
"$docker" build --network host --target valkey -t valkey/valkey:8.1.3-bookworm .
"$docker" build --network host --target haproxy -t haproxy:3.0.11-bookworm .
"$docker" build --network host --target prometheus -t prom/prometheus:v3.5.0 .
