# The server of docs/serving.md, with the versions of constraints.txt.
#
#     docker build -t deepspeech2 .
#     docker run -p 8000:8000 -v ./runs/live:/model:ro -v ./token.txt:/run/secrets/token:ro deepspeech2
#
# The port can be reached from outside the container, so clients need the token. PIP_ARGUMENTS can name the index of
# PyTorch's wheels without CUDA, which make the image several gigabytes smaller:
#     docker build --build-arg PIP_ARGUMENTS="--extra-index-url https://…" -t deepspeech2 .

FROM python:3.11-slim-bookworm AS build
ARG PIP_ARGUMENTS=""
WORKDIR /source
COPY constraints.txt ./
COPY pyproject.toml README.md LICENSE *.py ./
COPY modeling_deepspeech2 modeling_deepspeech2
COPY tokenizer tokenizer
# hadolint ignore=SC2086
RUN python -m venv /opt/deepspeech2 \
    && /opt/deepspeech2/bin/pip install --no-cache-dir ${PIP_ARGUMENTS} -c constraints.txt ".[serve]"

FROM python:3.11-slim-bookworm
COPY --from=build /opt/deepspeech2 /opt/deepspeech2
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin deepspeech2
USER 10001
ENV PATH=/opt/deepspeech2/bin:$PATH HF_HUB_OFFLINE=1 HF_HOME=/tmp/huggingface PYTHONUNBUFFERED=1
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["deepspeech2", "serve", "--host", "0.0.0.0", "--token_file", "/run/secrets/token"]
CMD ["--model", "/model"]
