# `ferdeploy serve` in a container: the runtime and the extra `serve`, no torch, an unprivileged user.
# docs/serve.md explains how to run it.
#
#   docker build --tag ferdeploy .
#   docker run --rm --publish 127.0.0.1:8000:8000 --read-only --cap-drop ALL ferdeploy

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY fer_deploy fer_deploy
RUN python -m venv /opt/ferdeploy && /opt/ferdeploy/bin/pip install --no-cache-dir '.[serve]'

FROM python:${PYTHON}-slim
ENV PATH=/opt/ferdeploy/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/ferdeploy /opt/ferdeploy
WORKDIR /srv/ferdeploy
# The service uses the model inside the package, or the best one of exports/ if the package has none.
COPY exports exports
# A number, so that Kubernetes' runAsNonRoot can check that it is not root.
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
# List form, so that the program is process 1 and receives SIGTERM: it then stops gracefully.
ENTRYPOINT ["ferdeploy", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--drain", "0"]
