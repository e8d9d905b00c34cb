# Greenfly's command line as an image: `docker build -t greenfly .`, then `docker run --rm greenfly --help`.
#
# The base is pinned by tag; give a digest where a build must be repeatable to the byte:
#   docker build --build-arg PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:… -t greenfly .
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
RUN python -m venv /opt/greenfly
# The lock first: its layer is built again only when the lock changes.  Every file is checked against its hash.
COPY requirements.lock ./
RUN /opt/greenfly/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY integrity ./integrity
COPY reports ./reports
COPY flows ./flows
COPY greenfly ./greenfly
RUN /opt/greenfly/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/greenfly greenfly
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
