# One image for every service: compose.yaml says which of them a container runs.
FROM python:3.11.14-slim-bookworm AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/opt/quotebus
RUN python -m pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
WORKDIR /build
# What others wrote comes first: this layer is made anew only when the lock file changes. All of it comes as wheels.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --extra fast --extra notify --no-install-project --no-build
COPY README.md LICENSE ./
COPY contracts contracts
COPY services services
COPY quotebus quotebus
RUN uv sync --frozen --no-dev --extra fast --extra notify --no-editable

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="quotebus" \
      org.opencontainers.image.description="Market prices, refreshed on time, on a message bus anyone can listen to" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 quotebus && \
    useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin quotebus
COPY --from=build /opt/quotebus /opt/quotebus
ENV PATH=/opt/quotebus/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONFAULTHANDLER=1
WORKDIR /
USER 10001:10001
STOPSIGNAL SIGTERM
CMD ["quotebus", "--help"]
