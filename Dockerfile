# The service alone: docker build -t cifar-service . && docker run -p 8000:8000 cifar-service
# With your own checkpoint, $PWD/cifar_net.pth: docker run -p 8000:8000 -v "$PWD:/models" cifar-service
# Retrain jobs: docker build --target training -t cifar-training .
# TORCH=cpu leaves out CUDA's several GB; TORCH=locked takes torch as requirements.lock has it, with its hash.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG TORCH=locked
# Behind a proxy that decrypts TLS, these name the file with its certificate.
ARG PIP_CERT
ARG SSL_CERT_FILE
ENV VIRTUAL_ENV=/opt/venv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
WORKDIR /build
COPY requirements.lock pyproject.toml ./
# What torch installs and nothing here uses is left out: Triton (only torch.compile needs it, and a C compiler, which is
# missing too), what CUDA programs are built with (headers, static libraries, bitcode, protoc), the multi-GPU solver.
RUN --mount=type=cache,target=/root/.cache \
    python3 -m venv /opt/uv && /opt/uv/bin/pip install --quiet "$(sed -nE 's/^(uv==[^ ]+).*/\1/p' requirements.lock)" && \
    python3 -m venv --without-pip /opt/venv && \
    echo "triton; sys_platform == 'none'" > overrides.txt && \
    if [ "$TORCH" != locked ]; then \
        /opt/uv/bin/uv pip install --overrides overrides.txt --torch-backend "$TORCH" $(sed -nE 's/^(torch(vision)?==[^ ]+).*/\1/p' requirements.lock); \
    fi && \
    /opt/uv/bin/uv pip install --extra server --requirements pyproject.toml --constraints requirements.lock --overrides overrides.txt && \
    find /opt/venv \( -path '*/torch/include' -o -path '*/torch/bin/protoc*' -o -path '*/nvidia/*/include' \
        -o -path '*/nvidia/*.a' -o -path '*/nvidia/*.bc' -o -path '*/nvidia/*/libcusolverMg.so*' \) -prune -exec rm -r {} +
COPY README.md LICENSE ./
COPY clients clients
COPY models models
COPY server server
COPY training training
RUN --mount=type=cache,target=/root/.cache /opt/uv/bin/uv build --wheel --out-dir dist

FROM python:${PYTHON}-slim AS installed
RUN useradd --uid 10001 --create-home cifar && install -d -o cifar /models
COPY --from=build /opt/venv /opt/venv
# A layer of its own, so that what changes often is small.
RUN --mount=type=bind,from=build,source=/opt/uv,target=/opt/uv --mount=type=bind,from=build,source=/build/dist,target=/dist \
    /opt/uv/bin/uv pip install --python /opt/venv --no-cache --no-deps --compile-bytecode /dist/*.whl
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
USER cifar

# What cifar-train needs in addition; both images share the layers above.
FROM installed AS training
ARG PIP_CERT
ARG SSL_CERT_FILE
USER root
RUN --mount=type=cache,target=/root/.cache --mount=type=bind,from=build,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=build,source=/build,target=/build \
    install -d -o cifar /runs /cache && \
    /opt/uv/bin/uv pip install --python /opt/venv --link-mode copy --compile-bytecode --extra training \
        --requirements /build/pyproject.toml --constraints /build/requirements.lock --overrides /build/overrides.txt
ENV XDG_CACHE_HOME=/cache MPLCONFIGDIR=/tmp
USER cifar
WORKDIR /runs
ENTRYPOINT ["cifar-train"]

FROM installed
ENV CIFAR_HOST=0.0.0.0 CIFAR_PORT=8000
WORKDIR /models
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=10s --timeout=5s CMD \
    ["python3", "-I", "-c", "import http.client as http, os, ssl; at = '127.0.0.1', int(os.environ.get('CIFAR_PORT') or 8000); \
    tls = os.environ.get('CIFAR_SSL_CERTFILE'); anyone = ssl._create_unverified_context(); \
    asked = http.HTTPSConnection(*at, context=anyone) if tls else http.HTTPConnection(*at); \
    asked.request('GET', '/readyz'); raise SystemExit(asked.getresponse().status != 200)"]
CMD ["cifar-serve"]
