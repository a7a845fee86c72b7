# A run's model over HTTP, as `isoflop serve` gives it.
# Not built here: there was no Docker engine. tests/test_dockerfile.py holds it to pyproject.toml and to the commands.
# For GPUs take vLLM's own image and the command that `isoflop serve` prints.
#   docker build -t isoflop .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/runs:/runs" isoflop RUN_ID
FROM python:3.11-slim
WORKDIR /isoflop
COPY . .
RUN pip install --no-cache-dir -c constraints.txt -e '.[serve]'
EXPOSE 8000
VOLUME /runs
ENTRYPOINT ["isoflop", "serve", "--runs", "/runs", "--host", "0.0.0.0", "--port", "8000"]
