# azaion/annotation-queue: azaiond for the annotations alone, without torch and without secrets of publishing.
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

FROM base AS environment
WORKDIR /source
COPY requirements/build.lock requirements/annotation-queue.lock requirements/
RUN python3 -m venv /opt/azaion \
    && /opt/azaion/bin/python -m pip install --no-cache-dir --require-hashes --no-deps \
        --requirement requirements/build.lock --requirement requirements/annotation-queue.lock

# To work on it: the source is mounted over /source.
FROM environment AS development
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
# Nothing is installed in a running container, so nothing that installs need be in it.
RUN /opt/azaion/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/azaion/bin/python -m pip uninstall --quiet --yes --requirement requirements/build.lock \
    && /opt/azaion/bin/python -m pip uninstall --quiet --yes setuptools pip

FROM base AS production
ARG REVISION=unknown
LABEL org.opencontainers.image.title="azaion/annotation-queue" \
      org.opencontainers.image.licenses="AGPL-3.0-or-later" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=whole /opt/azaion /opt/azaion
ENV AZAION_GPUS=none \
    AZAION_PUBLISH_TARGET=none
USER 10001:10001
STOPSIGNAL SIGTERM
# A warning is nothing that a container should be called unhealthy for.
HEALTHCHECK --interval=60s --timeout=10s --start-period=60s --retries=3 \
    CMD ["sh", "-c", "azaionctl health; test $? -lt 2"]
ENTRYPOINT ["python", "-P", "-X", "faulthandler", "-m", "supervisor.daemon"]
