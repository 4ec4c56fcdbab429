# The service, alone: docker build -t cifar-service . && docker run -p 8000:8000 cifar-service
# Your own checkpoint: docker run -p 8000:8000 -v "$PWD:/models" cifar-service, with cifar_net.pth in $PWD.
# TORCH=cpu leaves out CUDA's several GB; TORCH=locked takes torch as requirements.lock has it, hash and all.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG TORCH=locked
# Where a proxy signs the package index with its own certificate, these name the bundle that has it.
ARG PIP_CERT
ARG SSL_CERT_FILE
ENV VIRTUAL_ENV=/opt/venv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
WORKDIR /build
COPY requirements.lock pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache \
    python3 -m venv /tmp/uv && /tmp/uv/bin/pip install --quiet "$(sed -nE 's/^(uv==[^ ]+).*/\1/p' requirements.lock)" && \
    python3 -m venv --without-pip /opt/venv && \
    if [ "$TORCH" != locked ]; then \
        /tmp/uv/bin/uv pip install --torch-backend "$TORCH" $(sed -nE 's/^(torch(vision)?==[^ ]+).*/\1/p' requirements.lock); \
    fi && \
    /tmp/uv/bin/uv pip install --requirements pyproject.toml --extra server --constraints requirements.lock
COPY README.md LICENSE ./
COPY clients clients
COPY models models
COPY server server
COPY training training
RUN --mount=type=cache,target=/root/.cache /tmp/uv/bin/uv pip install --no-deps .

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --create-home cifar && mkdir /models
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 CIFAR_HOST=0.0.0.0 CIFAR_PORT=8000
USER cifar
WORKDIR /models
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=10s --timeout=5s CMD \
    ["python3", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"CIFAR_PORT\"]}/readyz')"]
CMD ["cifar-serve"]
