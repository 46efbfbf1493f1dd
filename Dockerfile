# One image for the web server, the worker and schema migrations; compose.yaml runs all three.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
COPY requirements.txt .
RUN /opt/venv/bin/pip install --require-hashes -r requirements.txt

FROM python:3.13-slim
LABEL org.opencontainers.image.title="Certcourier" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"
RUN useradd --system --uid 10001 --create-home --home-dir /home/certcourier certcourier \
 && install -d -o certcourier -g certcourier -m 0750 /var/lib/certcourier
COPY --from=build /opt/venv /opt/venv
WORKDIR /srv/certcourier
COPY app app
COPY migrations migrations
COPY config.py gunicorn.conf.py wsgi.py pyproject.toml README.md LICENSE .flaskenv ./
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation --editable .
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=4567 \
    DATA_DIR=/var/lib/certcourier
USER certcourier
VOLUME /var/lib/certcourier
EXPOSE 4567
# /healthz needs no token and checks only the process itself.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=2)"]
CMD ["gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]
