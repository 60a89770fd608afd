# Two images from one lock: `service` (the default), what `churn serve` needs and no more, and `registry`, an MLflow
# server on PostgreSQL for compose.yaml. Packages come from uv.lock, compiled at build time; nothing runs as root.
ARG PYTHON=python:3.11.15-slim-bookworm

FROM ${PYTHON} AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1 UV_PROJECT_ENVIRONMENT=/opt/venv
WORKDIR /src
COPY .ci/requirements.txt .ci/requirements.txt
RUN pip install --no-cache-dir --disable-pip-version-check -r .ci/requirements.txt
COPY pyproject.toml uv.lock ./

FROM build AS build-registry
RUN uv sync --frozen --no-default-groups --only-group registry --no-install-project

FROM build AS build-service
RUN uv sync --frozen --no-default-groups --only-group serving --no-install-project
COPY README.md LICENSE NOTICE policy.yaml ./
COPY src src
COPY serving serving
COPY feature_repo feature_repo
COPY warehouse warehouse
COPY data data
# The wheel carries the project's files; those that only jobs read are not for this image.
RUN uv pip install --python /opt/venv/bin/python --no-deps .
RUN rm -r /opt/venv/lib/python3.*/site-packages/churn/project/warehouse \
          /opt/venv/lib/python3.*/site-packages/churn/project/data

FROM ${PYTHON} AS base
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin churn \
    && install -d -o churn -g churn /data
# Bytecode is there already, and the root file system may be read-only.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TZ=UTC HOME=/data \
    MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true
VOLUME /data
WORKDIR /data
USER churn

FROM base AS registry
COPY --from=build-registry /opt/venv /opt/venv
# One worker and no job runner: 0.5 GB instead of 2.4 GB.
ENV MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:5000/health', timeout=3)"]
# Where runs are kept comes as MLFLOW_BACKEND_STORE_URI, because a command line shows in a list of processes.
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "1", "--artifacts-destination", "/data/artifacts"]

FROM base AS service
COPY --from=build-service /opt/venv /opt/venv
# HOST is every address of the container; what may reach it is decided where its port is published.
ENV CHURN_HOME=/data CHURN_HOST=0.0.0.0 CHURN_PORT=8000
EXPOSE 8000
# Alive, not ready: a missing champion or a lost store is no reason to restart the service.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=3)"]
STOPSIGNAL SIGTERM
CMD ["churn", "serve"]
