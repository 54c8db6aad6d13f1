# One file for CPU-only and CUDA images: the package index decides which torch is installed.
#
#   docker build -t earshot .                                            torch from PyPI (CUDA on x86)
#   docker build -t earshot --build-arg PIP_EXTRA_INDEX_URL=<index> .    e.g. PyTorch's CPU-only index

FROM python:3.12-slim-bookworm AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# For what is compiled (docs/adr/0021); the image that is served has no compiler.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /venv
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY service ./service
RUN /venv/bin/pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.12-slim-bookworm
# The hub's cache exists, so that a volume mounted over it belongs to the user.
RUN useradd --uid 10001 --create-home earshot \
    && install -d -o earshot -g earshot /home/earshot/.cache /home/earshot/.cache/huggingface
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    EARSHOT_HOST=0.0.0.0 \
    EARSHOT_PORT=8000 \
    EARSHOT_LOG_FORMAT=json
USER 10001
WORKDIR /home/earshot
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['EARSHOT_PORT'] + '/livez', timeout=2)"]
ENTRYPOINT ["earshot"]
CMD ["serve"]
