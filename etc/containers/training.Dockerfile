# azaion/training: azaiond with the queue of jobs and all that a training needs. Runs die with its container.
# Build it from the root of the repository; docs/containers.md says how it is run.

# By tag, for its digest must be looked up where the image is had: make images PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/azaion/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    AZAION_ROOT_DIR=/azaion \
    AZAION_STATE_DIR=/var/lib/azaion \
    AZAION_LAUNCHER=fork \
    AZAION_LOG_FORMAT=json
# The settings are mounted as /etc/azaion/.env. A volume over the state folder takes over its owner. There is no /azaion:
# azaiond refuses to start where no data are mounted.
RUN groupadd --gid 10001 azaion \
    && useradd --uid 10001 --gid azaion --no-create-home --home-dir /var/lib/azaion --shell /usr/sbin/nologin azaion \
    && install --directory --owner azaion --group azaion --mode 0750 /var/lib/azaion \
    && install --directory /etc/azaion
WORKDIR /etc/azaion

# The order matters: the lock (with hashes) first, then torch, whose build depends on the index that it comes from.
FROM base AS environment
WORKDIR /source
COPY requirements/build.lock requirements/train.lock requirements/torch.txt requirements/
RUN python3 -m venv /opt/azaion \
    && /opt/azaion/bin/python -m pip install --no-cache-dir --require-hashes --no-deps \
        --requirement requirements/build.lock --requirement requirements/train.lock
RUN /opt/azaion/bin/python -m pip install --no-cache-dir --requirement requirements/torch.txt

# To work on it, and to run the tests: the source is mounted over /source.
FROM environment AS development
COPY requirements/dev.lock requirements/
RUN /opt/azaion/bin/python -m pip install --no-cache-dir --require-hashes --no-deps --requirement requirements/dev.lock
ENV PYTHONPATH=/source
COPY pyproject.toml README.md LICENSE ./
COPY azaion azaion
COPY workers workers
COPY supervisor supervisor
RUN /opt/azaion/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation --editable .
USER 10001:10001
CMD ["python", "-X", "dev", "-m", "supervisor.daemon"]

FROM environment AS whole
COPY pyproject.toml README.md LICENSE ./
COPY azaion azaion
COPY workers workers
COPY supervisor supervisor
# Nothing is installed in a running container. pip and setuptools stay: torch compiles with the help of the latter.
RUN /opt/azaion/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation .

FROM base AS production
ARG REVISION=unknown
LABEL org.opencontainers.image.title="azaion/training" \
      org.opencontainers.image.licenses="AGPL-3.0-or-later" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=whole /opt/azaion /opt/azaion
# Annotations are the other container's.
ENV AZAION_SOURCE=none \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
STOPSIGNAL SIGTERM
# A warning is nothing that a container should be called unhealthy for.
HEALTHCHECK --interval=60s --timeout=10s --start-period=60s --retries=3 \
    CMD ["sh", "-c", "azaionctl health; test $? -lt 2"]
ENTRYPOINT ["python", "-P", "-X", "faulthandler", "-m", "supervisor.daemon"]

# For an H100: refused when it is built, and not when it is run, if torch was built without CUDA or without its architecture.
FROM production AS h100
RUN python -c 'import sys, torch; built = torch._C._cuda_getArchFlags() if torch.version.cuda else "cpu"; \
    "sm_90" in (built or "").split() or sys.exit(f"this torch is built for {built}, and an H100 needs sm_90")'
ENV NVIDIA_REQUIRE_CUDA="cuda>=12.1"
