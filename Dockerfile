# Greenfly's command line as an image: `docker build -t greenfly .`, then `docker run --rm greenfly --help`.
#
# The base is pinned by tag; give a digest where a build must be repeatable to the byte:
#   docker build --build-arg PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:… -t greenfly .
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /tools
# The lock first: its layer is built again only when the lock changes.  Every file is checked against its hash, and none is
# built here, which would take tools that the lock does not know.
COPY requirements.lock ./
RUN /tools/bin/pip download --require-hashes --no-deps --only-binary=:all: --dest /wheels -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY integrity ./integrity
COPY reports ./reports
COPY flows ./flows
COPY greenfly ./greenfly
# From here on, nothing but these files: what the lock holds for tests stays behind, and so does pip.
RUN /tools/bin/pip install --no-index --find-links=/wheels hatchling \
    && /tools/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheels . \
    && python -m venv --without-pip /opt/greenfly \
    && /tools/bin/pip --python /opt/greenfly/bin/python install --no-index --find-links=/wheels \
    "greenfly[postgres,tracing,dask]"

FROM ${PYTHON_IMAGE}
RUN useradd --no-log-init --user-group --uid 10001 --shell /usr/sbin/nologin \
    --create-home --home-dir /var/lib/greenfly greenfly
COPY --from=build /opt/greenfly /opt/greenfly
ENV PATH=/opt/greenfly/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GREENFLY_STATE_DIR=/var/lib/greenfly/state
USER 10001
WORKDIR /var/lib/greenfly
# Volumes that are mounted here for the first time belong to the user above; prefect is for a server from this image.
RUN mkdir state prefect
VOLUME /var/lib/greenfly/state
ENTRYPOINT ["greenfly"]
CMD ["--help"]
