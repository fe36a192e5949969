# pggan_fast with its command, for a CPU or for NVIDIA GPUs:
#
#   docker build -t pggan-fast .
#   docker build -t pggan-fast:cuda --build-arg BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04 \
#       --build-arg RUNTIME=nvidia/cuda:13.0.2-base-ubuntu24.04 --build-arg CUDA=1 --build-arg TORCH="torch==2.13.0 triton" .
#   docker run --rm pggan-fast doctor
#   docker run --rm --gpus all -v "$PWD:/work" pggan-fast:cuda train --data faces
#
# BASE builds the wheel and has the compilers, RUNTIME runs it. Both are of the same system, so that their Pythons are.
ARG BASE=debian:bookworm-slim
ARG RUNTIME=${BASE}

FROM ${BASE} AS build
ARG DEBIAN_FRONTEND=noninteractive
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
# PIP_INDEX_URL and its like are read by pip where they are given: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG TORCH="torch==2.13.0"
RUN python3 -m venv /opt/pggan && /opt/pggan/bin/pip install --no-cache-dir ${TORCH}
WORKDIR /src
COPY . .
ARG CUDA=0
# hadolint ignore=SC2046
RUN PGGAN_FAST_CUDA=${CUDA} /opt/pggan/bin/pip install --no-cache-dir . \
    && /opt/pggan/bin/python -I scripts/check_install.py _cpu $([ "${CUDA}" = 0 ] || echo _cuda) \
    && /opt/pggan/bin/pip uninstall --yes pip

FROM ${RUNTIME}
ARG DEBIAN_FRONTEND=noninteractive
# Triton builds its launchers with gcc and Python.h.
ARG CUDA=0
# hadolint ignore=DL3008,SC2046
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 $([ "${CUDA}" = 0 ] || echo gcc libc6-dev python3-dev) \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 pggan \
    && install -d -o pggan -g pggan /work
COPY --from=build /opt/pggan /opt/pggan
ENV PATH=/opt/pggan/bin:$PATH
USER 10001
WORKDIR /work
ENTRYPOINT ["pggan-fast"]
CMD ["info"]
